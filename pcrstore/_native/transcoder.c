/* Rewrite the entropy coding of JPEG files, coefficient for coefficient.
 *
 *   source --read--> coefficients --write--> progressive JPEG --read--> coefficients
 *                         |                                                  |
 *                         +------------------ compared ----------------------+--write--> as the
 *                                                                              source was coded
 *
 * A thin layer over libjpeg's coefficient API (jpeg_read_coefficients, jpeg_write_coefficients):
 * libjpeg 6b as libjpeg-turbo ships it (ABI 62), and jpeg 8. Reading and writing are in jpeg_io.c;
 * here are the jobs made of them and their Python functions. The rules of both:
 *
 * - Every complaint of libjpeg is a failure, warnings too. libjpeg repairs what it warns about (a
 *   truncated file gets a made-up end), and a repaired file is not the file we were given.
 * - Limits are checked when the header is known and before coefficients are allocated.
 * - The GIL is released around all of it; there is no global state.
 *
 * Scripts and tables arrive as packed bytes (see _transcoder.pyi): Python parses markers, this
 * file moves coefficients. Everything a function needs is in one Job, which its caller owns, so
 * that no local variable has to survive a longjmp.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <limits.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jpeg_io.h"

/* One scan of a packed script: number of components, four component indices, Ss, Se, Ah, Al. */
#define PACKED_SCAN 9

/* ---- Comparing ---------------------------------------------------------------------------- */

static JBLOCKROW
block_row(Reader *reader, int component, JDIMENSION row)
{
    j_common_ptr cinfo = (j_common_ptr)&reader->cinfo;
    return cinfo->mem->access_virt_barray(cinfo, reader->coefficients[component], row, 1, FALSE)[0];
}

static void
describe_difference(char *text, size_t size, int component, JDIMENSION row, const JCOEF *a,
                    const JCOEF *b)
{
    size_t k = 0;
    while (a[k] == b[k])
        k++;
    snprintf(text, size, "coefficient %d of block row %u, column %u of component %d: %d against %d",
             (int)(k % DCTSIZE2), (unsigned)row, (unsigned)(k / DCTSIZE2), component, a[k], b[k]);
}

/* Compare frames, quantisation tables and coefficients; 0 and a description when they differ.
 *
 * Blocks that only fill up an MCU at the right and bottom edges belong to no image (A.2.4):
 * encoders fill them as they like, and a scan of one component leaves them out. */
static int
same_image(Reader *a, Reader *b, char *text, size_t size)
{
    j_decompress_ptr x = &a->cinfo, y = &b->cinfo;
    snprintf(text, size, "frame of %ux%u, %d components", x->image_width, x->image_height,
             x->num_components);
    if (x->image_width != y->image_width || x->image_height != y->image_height ||
        x->num_components != y->num_components || x->data_precision != y->data_precision)
        return 0;
    for (int i = 0; i < x->num_components; i++) {
        jpeg_component_info *p = &x->comp_info[i], *q = &y->comp_info[i];
        snprintf(text, size, "frame header or quantisation table of component %d", i);
        if (p->component_id != q->component_id || p->h_samp_factor != q->h_samp_factor ||
            p->v_samp_factor != q->v_samp_factor || p->quant_tbl_no != q->quant_tbl_no)
            return 0;
        /* quant_table is the copy that libjpeg saved at the component's first scan. */
        if (p->quant_table == NULL || q->quant_table == NULL ||
            memcmp(p->quant_table->quantval, q->quant_table->quantval,
                   sizeof p->quant_table->quantval) != 0)
            return 0;
        for (JDIMENSION row = 0; row < p->height_in_blocks; row++) {
            JBLOCKROW r = block_row(a, i, row), s = block_row(b, i, row);
            if (memcmp(r, s, p->width_in_blocks * sizeof(JBLOCK)) != 0) {
                describe_difference(text, size, i, row, r[0], s[0]);
                return 0;
            }
        }
    }
    return 1;
}

/* ---- Jobs --------------------------------------------------------------------------------- */

typedef struct {
    Failure failure;
    Limits limits;
    Py_buffer source, insert;
    Coding script, coding; /* of the output, and of the source */
    int recode;            /* whether `coding` is given */
    Reader a, b;
    Writer output, recoded;
    char difference[JMSG_LENGTH_MAX];
} Job;

static Job *
new_job(void)
{
    Job *job = calloc(1, sizeof *job); /* all NULL: every part can be freed at any time */
    if (job == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    init_failure(&job->failure);
    return job;
}

/* The libjpeg side can be large; it is freed without the GIL. */
static void
free_readers(Job *job)
{
    free_reader(&job->a);
    free_reader(&job->b);
}

static void
free_job(Job *job)
{
    free_writer(&job->output);
    free_writer(&job->recoded);
    free(job->script.scans);
    free(job->coding.scans);
    PyBuffer_Release(&job->source);
    PyBuffer_Release(&job->insert);
    free(job);
}

static void
run_transcode(Job *job)
{
    Failure *failure = &job->failure;
    if (setjmp(failure->escape))
        return;
    read_coefficients(&job->a, failure, &job->limits, 2, job->source.buf, job->source.len);
    write_coefficients(&job->output, failure, &job->a, &job->script, job->insert.buf,
                       job->insert.len, job->source.len);
    if (job->limits.scans < job->script.n_scans)
        job->limits.scans = job->script.n_scans; /* the limit is meant for the source */
    read_coefficients(&job->b, failure, &job->limits, 2, job->output.bytes, job->output.size);
    if (!same_image(&job->a, &job->b, job->difference, sizeof job->difference))
        fail(failure, DAMAGED, "transcoding would lose data: %.150s", job->difference);
    if (!job->recode)
        return;
    /* Failing here only means that the source's own bytes have to be kept. */
    if (setjmp(failure->escape)) {
        free_writer(&job->recoded);
        failure->outcome = FINE;
        return;
    }
    write_coefficients(&job->recoded, failure, &job->b, &job->coding, "", 0, job->source.len);
}

static void
run_reencode(Job *job)
{
    if (setjmp(job->failure.escape))
        return;
    read_coefficients(&job->b, &job->failure, &job->limits, 1, job->source.buf, job->source.len);
    write_coefficients(&job->recoded, &job->failure, &job->b, &job->coding, "", 0,
                       job->source.len);
}

/* ---- Python ------------------------------------------------------------------------------- */

typedef struct {
    PyObject *damaged, *unsupported, *limit; /* classes of pcrstore.errors */
} State;

static PyObject *
raise_failure(PyObject *module, const Failure *failure)
{
    State *state = PyModule_GetState(module);
    PyObject *type = PyExc_RuntimeError;
    switch (failure->outcome) {
    case NO_MEMORY:
        return PyErr_NoMemory();
    case DAMAGED:
        type = state->damaged;
        break;
    case UNSUPPORTED:
        type = state->unsupported;
        break;
    case OVER_LIMIT:
        type = state->limit;
        break;
    case BAD_CALL:
        type = PyExc_ValueError;
        break;
    case BAD_LIBRARY:
    case FINE:
        break;
    }
    PyErr_SetString(type, failure->message);
    return NULL;
}

/* Run a job without the GIL; 0 with an exception set when it failed. */
static int
run(PyObject *module, Job *job, void (*work)(Job *))
{
    Py_BEGIN_ALLOW_THREADS
    work(job);
    free_readers(job);
    Py_END_ALLOW_THREADS
    if (job->failure.outcome != FINE) {
        raise_failure(module, &job->failure);
        return 0;
    }
    return 1;
}

static int
unpack_scans(Coding *coding, const unsigned char *packed, Py_ssize_t size)
{
    Py_ssize_t n = size / PACKED_SCAN;
    if (n == 0 || size % PACKED_SCAN != 0 || n > INT_MAX / PACKED_SCAN) {
        PyErr_Format(PyExc_ValueError, "packed scans must be n > 0 times %d bytes, got %zd",
                     PACKED_SCAN, size);
        return 0;
    }
    coding->scans = calloc(n, sizeof *coding->scans);
    if (coding->scans == NULL) {
        PyErr_NoMemory();
        return 0;
    }
    coding->n_scans = (int)n;
    for (Py_ssize_t i = 0; i < n; i++, packed += PACKED_SCAN) { /* values are libjpeg's to judge */
        jpeg_scan_info *scan = &coding->scans[i];
        scan->comps_in_scan = packed[0];
        for (int c = 0; c < MAX_COMPS_IN_SCAN; c++)
            scan->component_index[c] = packed[1 + c];
        scan->Ss = packed[5];
        scan->Se = packed[6];
        scan->Ah = packed[7];
        scan->Al = packed[8];
    }
    return 1;
}

/* (scans, tables or None, DC slots, restart interval); the tuple outlives the job. */
static int
unpack_coding(Coding *coding, PyObject *object)
{
    PyObject *scans, *tables, *dc_slots;
    if (!PyTuple_Check(object) ||
        !PyArg_ParseTuple(object, "SOSI", &scans, &tables, &dc_slots, &coding->restart_interval) ||
        !(tables == Py_None || PyBytes_Check(tables))) {
        PyErr_SetString(PyExc_TypeError, "coding must be (bytes, bytes or None, bytes, int)");
        return 0;
    }
    if (tables != Py_None) {
        coding->tables = (const unsigned char *)PyBytes_AsString(tables);
        coding->tables_size = PyBytes_Size(tables);
    }
    coding->dc_slots = (const unsigned char *)PyBytes_AsString(dc_slots);
    coding->dc_slots_size = PyBytes_Size(dc_slots);
    return unpack_scans(coding, (const unsigned char *)PyBytes_AsString(scans),
                        PyBytes_Size(scans));
}

static PyObject *
bytes_of(const Writer *writer)
{
    return PyBytes_FromStringAndSize((const char *)writer->bytes, writer->size);
}

static PyObject *
segments_of(const Writer *writer)
{
    PyObject *list = PyList_New(writer->cinfo.num_scans);
    for (int i = 0; list != NULL && i < writer->cinfo.num_scans; i++) {
        Segment segment = writer->segments[i];
        PyObject *bytes = PyBytes_FromStringAndSize((const char *)writer->bytes + segment.start,
                                                    segment.stop - segment.start);
        if (bytes == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, bytes);
    }
    return list;
}

/* The bytes of a file around its entropy-coded segments. */
static PyObject *
skeleton_of(const Writer *writer)
{
    size_t at = 0, size = writer->size;
    int n = writer->cinfo.num_scans;
    for (int i = 0; i < n; i++)
        size -= writer->segments[i].stop - writer->segments[i].start;
    PyObject *skeleton = PyBytes_FromStringAndSize(NULL, size);
    if (skeleton == NULL)
        return NULL;
    char *to = PyBytes_AS_STRING(skeleton);
    for (int i = 0; i <= n; i++) {
        size_t stop = i < n ? writer->segments[i].start : writer->size;
        memcpy(to, writer->bytes + at, stop - at);
        to += stop - at;
        at = i < n ? writer->segments[i].stop : stop;
    }
    return skeleton;
}

static PyObject *
recoded_of(const Writer *writer)
{
    if (writer->segments == NULL)
        Py_RETURN_NONE;
    return Py_BuildValue("NN", skeleton_of(writer), segments_of(writer));
}

static PyObject *
stops_of(const Writer *writer)
{
    PyObject *list = PyList_New(writer->cinfo.num_scans);
    for (int i = 0; list != NULL && i < writer->cinfo.num_scans; i++) {
        PyObject *stop = PyLong_FromSize_t(writer->segments[i].stop);
        if (stop == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, stop);
    }
    return list;
}

static PyObject *
py_transcode(PyObject *module, PyObject *args)
{
    PyObject *coding, *result = NULL;
    const char *scans;
    Py_ssize_t scans_size;
    Job *job = new_job();
    if (job == NULL)
        return NULL;
    if (PyArg_ParseTuple(args, "y*y*y#OKiK:transcode", &job->source, &job->insert, &scans,
                         &scans_size, &coding, &job->limits.pixels, &job->limits.scans,
                         &job->limits.memory) &&
        unpack_scans(&job->script, (const unsigned char *)scans, scans_size)) {
        job->recode = coding != Py_None;
        if ((!job->recode || unpack_coding(&job->coding, coding)) &&
            run(module, job, run_transcode))
            result = Py_BuildValue("NNN", bytes_of(&job->output), stops_of(&job->output),
                                   recoded_of(&job->recoded));
    }
    free_job(job);
    return result;
}

static PyObject *
py_reencode(PyObject *module, PyObject *args)
{
    PyObject *coding, *result = NULL;
    Job *job = new_job();
    if (job == NULL)
        return NULL;
    if (PyArg_ParseTuple(args, "y*OKiK:reencode", &job->source, &coding, &job->limits.pixels,
                         &job->limits.scans, &job->limits.memory) &&
        unpack_coding(&job->coding, coding) && run(module, job, run_reencode))
        result = segments_of(&job->recoded);
    free_job(job);
    return result;
}

static PyMethodDef methods[] = {
    {"transcode", py_transcode, METH_VARARGS,
     "Write a JPEG's coefficients by another scan script, and check that none was lost."},
    {"reencode", py_reencode, METH_VARARGS,
     "Entropy-coded segments of a JPEG's coefficients, coded as another file was."},
    {NULL, NULL, 0, NULL},
};

static int
exec_module(PyObject *module)
{
    State *state = PyModule_GetState(module);
    PyObject *errors = PyImport_ImportModule("pcrstore.errors");
    if (errors == NULL)
        return -1;
    state->damaged = PyObject_GetAttrString(errors, "DamagedJpegError");
    state->unsupported = PyObject_GetAttrString(errors, "UnsupportedJpegError");
    state->limit = PyObject_GetAttrString(errors, "LimitError");
    Py_DECREF(errors);
    return state->damaged && state->unsupported && state->limit ? 0 : -1;
}

static int
traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
    Py_VISIT(state->damaged);
    Py_VISIT(state->unsupported);
    Py_VISIT(state->limit);
    return 0;
}

static int
clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    Py_CLEAR(state->damaged);
    Py_CLEAR(state->unsupported);
    Py_CLEAR(state->limit);
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, exec_module},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "pcrstore._native._transcoder",
    .m_doc = "Rewrite the entropy coding of JPEG files, coefficient for coefficient.",
    .m_size = sizeof(State),
    .m_methods = methods,
    .m_slots = slots,
    .m_traverse = traverse,
    .m_clear = clear,
};

PyMODINIT_FUNC
PyInit__transcoder(void)
{
    return PyModuleDef_Init(&definition);
}
