/* Rewrite the entropy coding of JPEG files, coefficient for coefficient.
 *
 *   source --read--> coefficients --write--> progressive JPEG --read--> coefficients
 *                         |                                                  |
 *                         +------------------ compared ----------------------+--write--> as the
 *                                                                              source was coded
 *
 * A thin layer over libjpeg's coefficient API (jpeg_read_coefficients, jpeg_write_coefficients):
 * libjpeg 6b as libjpeg-turbo ships it (ABI 62), and jpeg 8. What is here beside the calls:
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
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#include <jerror.h>

/* One scan of a packed script: number of components, four component indices, Ss, Se, Ah, Al. */
#define PACKED_SCAN 9
/* One packed Huffman table: the 16 counts of T.81 B.2.4.2, then 256 symbols, zero-filled. */
#define PACKED_TABLE (16 + 256)

/* ---- Failing ------------------------------------------------------------------------------ */

typedef enum { FINE, DAMAGED, UNSUPPORTED, OVER_LIMIT, NO_MEMORY, BAD_CALL, BAD_LIBRARY } Outcome;

typedef struct {
    struct jpeg_error_mgr mgr; /* first, so that libjpeg's pointer to it is one to us */
    jmp_buf escape;
    Outcome outcome;
    char message[JMSG_LENGTH_MAX];
} Failure;

static Outcome
blame(j_common_ptr cinfo)
{
    switch (cinfo->err->msg_code) {
    case JERR_NO_SOI:
    case JERR_INPUT_EMPTY:
    case JERR_SOF_UNSUPPORTED:
    case JERR_BAD_PRECISION:
    case JERR_EMPTY_IMAGE:
    case JERR_MISMATCHED_QUANT_TABLE: /* a table slot redefined between scans: legal, and lost */
        return UNSUPPORTED;
    case JERR_IMAGE_TOO_BIG:
    case JERR_WIDTH_OVERFLOW:
        return OVER_LIMIT;
    case JERR_OUT_OF_MEMORY:
        return NO_MEMORY;
    case JERR_COMPONENT_COUNT: /* of a frame, or of a scan in a script */
        return cinfo->is_decompressor ? UNSUPPORTED : BAD_CALL;
    case JERR_BAD_PROG_SCRIPT:
    case JERR_BAD_SCAN_SCRIPT:
    case JERR_MISSING_DATA:
        return BAD_CALL;
    case JERR_BAD_LIB_VERSION:
    case JERR_BAD_STRUCT_SIZE:
        return BAD_LIBRARY;
    default:
        return DAMAGED;
    }
}

static void
error_exit(j_common_ptr cinfo)
{
    Failure *failure = (Failure *)cinfo->err;
    failure->outcome = blame(cinfo);
    cinfo->err->format_message(cinfo, failure->message);
    longjmp(failure->escape, 1);
}

/* Levels are -1 for warnings, 0 and more for traces. Stopping at the first warning is also what
 * keeps a short file that promises a large image from costing seconds. */
static void
emit_message(j_common_ptr cinfo, int level)
{
    if (level < 0)
        error_exit(cinfo);
}

static void
output_message(j_common_ptr cinfo)
{
    (void)cinfo; /* libjpeg's default writes to stderr */
}

#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
static void
fail(Failure *failure, Outcome outcome, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(failure->message, sizeof failure->message, format, args);
    va_end(args);
    failure->outcome = outcome;
    longjmp(failure->escape, 1);
}

/* ---- Reading ------------------------------------------------------------------------------ */

typedef struct {
    unsigned long long pixels; /* of the frame, width times height */
    int scans;
    unsigned long long memory; /* bytes of coefficients that one call may hold */
} Limits;

typedef struct {
    struct jpeg_decompress_struct cinfo; /* first, as in Failure */
    struct jpeg_progress_mgr progress;
    jvirt_barray_ptr *coefficients;
    int max_scans;
} Reader;

/* A scan costs time whether or not it carries data. */
static void
count_scans(j_common_ptr cinfo)
{
    Reader *reader = (Reader *)cinfo;
    if (reader->cinfo.input_scan_number > reader->max_scans)
        fail((Failure *)cinfo->err, OVER_LIMIT, "more than %d scans", reader->max_scans);
}

static unsigned long long
round_up(unsigned long long value, int multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

static void
check_frame(Failure *failure, j_decompress_ptr cinfo, const Limits *limits, int copies)
{
    unsigned long long pixels = (unsigned long long)cinfo->image_width * cinfo->image_height;
    unsigned long long memory = 0;
    for (int i = 0; i < cinfo->num_components; i++) {
        jpeg_component_info *c = &cinfo->comp_info[i];
        memory += round_up(c->width_in_blocks, c->h_samp_factor) *
                  round_up(c->height_in_blocks, c->v_samp_factor) * sizeof(JBLOCK);
    }
    memory *= copies;
    if (cinfo->arith_code)
        fail(failure, UNSUPPORTED, "arithmetic coding is not supported");
    if (pixels > limits->pixels)
        fail(failure, OVER_LIMIT, "%llu pixels, the limit is %llu", pixels, limits->pixels);
    if (memory > limits->memory)
        fail(failure, OVER_LIMIT, "coefficients need %llu bytes of memory, the limit is %llu",
             memory, limits->memory);
}

/* Read all coefficients of a file; `copies` of them will be held at once by the caller. */
static void
read_coefficients(Reader *reader, Failure *failure, const Limits *limits, int copies,
                  const void *bytes, size_t size)
{
    j_decompress_ptr cinfo = &reader->cinfo;
    cinfo->err = &failure->mgr;
    jpeg_create_decompress(cinfo);
    /* Over this, libjpeg would turn to temporary files; our own limit is the one above. */
    cinfo->mem->max_memory_to_use = LONG_MAX;
    reader->max_scans = limits->scans;
    reader->progress.progress_monitor = count_scans;
    cinfo->progress = &reader->progress;
    jpeg_mem_src(cinfo, (unsigned char *)bytes, (unsigned long)size); /* jpeg 8 lacks const */
    jpeg_read_header(cinfo, TRUE);
    check_frame(failure, cinfo, limits, copies);
    reader->coefficients = jpeg_read_coefficients(cinfo);
}

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
    if (x->image_width != y->image_width || x->image_height != y->image_height ||
        x->num_components != y->num_components || x->data_precision != y->data_precision) {
        snprintf(text, size, "frame: %ux%u, %d components against %ux%u, %d components",
                 x->image_width, x->image_height, x->num_components, y->image_width,
                 y->image_height, y->num_components);
        return 0;
    }
    for (int i = 0; i < x->num_components; i++) {
        jpeg_component_info *p = &x->comp_info[i], *q = &y->comp_info[i];
        if (p->component_id != q->component_id || p->h_samp_factor != q->h_samp_factor ||
            p->v_samp_factor != q->v_samp_factor || p->quant_tbl_no != q->quant_tbl_no) {
            snprintf(text, size, "frame: component %d is id %d, %dx%d, table %d against id %d, "
                     "%dx%d, table %d", i, p->component_id, p->h_samp_factor, p->v_samp_factor,
                     p->quant_tbl_no, q->component_id, q->h_samp_factor, q->v_samp_factor,
                     q->quant_tbl_no);
            return 0;
        }
        /* quant_table is the copy that libjpeg saved at the component's first scan. */
        if (p->quant_table == NULL || q->quant_table == NULL ||
            memcmp(p->quant_table->quantval, q->quant_table->quantval,
                   sizeof p->quant_table->quantval) != 0) {
            snprintf(text, size, "quantisation table of component %d", i);
            return 0;
        }
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

/* ---- Writing ------------------------------------------------------------------------------ */

/* Entropy-coded segment of one scan: bytes start..stop of what was written. */
typedef struct {
    size_t start, stop;
} Segment;

/* libjpeg's own jpeg_mem_dest loses its buffer when an error jumps out of it. */
typedef struct {
    struct jpeg_compress_struct cinfo; /* first, as in Failure */
    struct jpeg_destination_mgr dest;
    unsigned char *bytes;
    size_t size, capacity;
    Segment *segments;
} Writer;

static void
init_destination(j_compress_ptr cinfo)
{
    Writer *writer = (Writer *)cinfo;
    writer->dest.next_output_byte = writer->bytes;
    writer->dest.free_in_buffer = writer->capacity;
}

static void
grow(Writer *writer, size_t used, size_t capacity)
{
    unsigned char *bytes = realloc(writer->bytes, capacity);
    if (bytes == NULL)
        ERREXIT1(&writer->cinfo, JERR_OUT_OF_MEMORY, 0);
    writer->bytes = bytes;
    writer->capacity = capacity;
    writer->dest.next_output_byte = bytes + used;
    writer->dest.free_in_buffer = capacity - used;
}

/* Called when the buffer is full, whatever free_in_buffer says (libjpeg.txt). */
static boolean
empty_output_buffer(j_compress_ptr cinfo)
{
    Writer *writer = (Writer *)cinfo;
    grow(writer, writer->capacity, writer->capacity * 2);
    return TRUE;
}

static void
term_destination(j_compress_ptr cinfo)
{
    Writer *writer = (Writer *)cinfo;
    writer->size = writer->capacity - writer->dest.free_in_buffer;
}

static void
append(Writer *writer, const void *bytes, size_t size)
{
    if (size > writer->dest.free_in_buffer) {
        size_t used = writer->capacity - writer->dest.free_in_buffer;
        grow(writer, used, writer->capacity + size);
    }
    memcpy(writer->dest.next_output_byte, bytes, size);
    writer->dest.next_output_byte += size;
    writer->dest.free_in_buffer -= size;
}

/* Find the scans in our own output; libjpeg has no hook between them. */
static void
find_segments(Writer *writer, Failure *failure)
{
    const unsigned char *bytes = writer->bytes;
    size_t at = 2, size = writer->size;
    int n = 0;
    writer->segments = calloc(writer->cinfo.num_scans, sizeof(Segment));
    if (writer->segments == NULL)
        ERREXIT1(&writer->cinfo, JERR_OUT_OF_MEMORY, 0);
    while (at + 4 <= size && bytes[at] == 0xFF) {
        int is_sos = bytes[at + 1] == 0xDA;
        at += 2 + (bytes[at + 2] << 8 | bytes[at + 3]);
        if (!is_sos)
            continue;
        if (n == writer->cinfo.num_scans)
            break;
        writer->segments[n].start = at;
        for (; at + 2 <= size; at += 2) { /* past stuffed zeros and restart markers (B.1.1.5) */
            const unsigned char *ff = memchr(bytes + at, 0xFF, size - at - 1);
            at = ff == NULL ? size : (size_t)(ff - bytes);
            if (ff == NULL || (ff[1] != 0 && (ff[1] < 0xD0 || ff[1] > 0xD7)))
                break;
        }
        writer->segments[n++].stop = at;
    }
    if (n != writer->cinfo.num_scans || at + 2 != size)
        fail(failure, BAD_LIBRARY, "libjpeg wrote %d scans of %d", n, writer->cinfo.num_scans);
}

/* How to code coefficients. */
typedef struct {
    jpeg_scan_info *scans;
    int n_scans;
    const unsigned char *tables; /* DC and AC table of each component, or NULL for optimal ones */
    Py_ssize_t tables_size;
    const unsigned char *dc_slots; /* DC table number of each component, or NULL for libjpeg's */
    Py_ssize_t dc_slots_size;
    unsigned int restart_interval;
} Coding;

static void
unpack_table(j_compress_ptr cinfo, JHUFF_TBL **slot, const unsigned char *packed)
{
    if (*slot == NULL)
        *slot = jpeg_alloc_huff_table((j_common_ptr)cinfo);
    (*slot)->bits[0] = 0;
    memcpy((*slot)->bits + 1, packed, 16);
    memcpy((*slot)->huffval, packed + 16, 256);
    (*slot)->sent_table = FALSE;
}

/* The source may redefine a table between scans, where libjpeg keeps one set for all. But a
 * sequential scan is the only one of its components, and a table's number is not in the
 * entropy-coded bytes: so each component gets a slot of its own. */
static void
use_tables(j_compress_ptr cinfo, Failure *failure, const Coding *coding)
{
    int n = cinfo->num_components;
    if (n > NUM_HUFF_TBLS || coding->tables_size != (Py_ssize_t)n * 2 * PACKED_TABLE)
        fail(failure, BAD_CALL, "Huffman tables of %zd bytes do not fit %d components",
             coding->tables_size, n);
    for (int i = 0; i < n; i++) {
        const unsigned char *packed = coding->tables + (size_t)i * 2 * PACKED_TABLE;
        unpack_table(cinfo, &cinfo->dc_huff_tbl_ptrs[i], packed);
        unpack_table(cinfo, &cinfo->ac_huff_tbl_ptrs[i], packed + PACKED_TABLE);
        cinfo->comp_info[i].dc_tbl_no = cinfo->comp_info[i].ac_tbl_no = i;
    }
}

/* In an interleaved scan, components of the same slot share an optimal table. */
static void
use_dc_slots(j_compress_ptr cinfo, Failure *failure, const Coding *coding)
{
    if (coding->dc_slots_size != cinfo->num_components)
        fail(failure, BAD_CALL, "%zd DC table numbers do not fit %d components",
             coding->dc_slots_size, cinfo->num_components);
    for (int i = 0; i < cinfo->num_components; i++)
        cinfo->comp_info[i].dc_tbl_no = coding->dc_slots[i]; /* libjpeg checks its range */
}

/* Write the coefficients of `reader`. `insert` goes behind SOI: libjpeg would write a JFIF or
 * Adobe segment of its own there, which need not be the source's. */
static void
write_coefficients(Writer *writer, Failure *failure, Reader *reader, const Coding *coding,
                   const void *insert, size_t insert_size, size_t size_hint)
{
    j_compress_ptr cinfo = &writer->cinfo;
    cinfo->err = &failure->mgr;
    jpeg_create_compress(cinfo);
    cinfo->mem->max_memory_to_use = LONG_MAX;
    writer->dest.init_destination = init_destination;
    writer->dest.empty_output_buffer = empty_output_buffer;
    writer->dest.term_destination = term_destination;
    cinfo->dest = &writer->dest;
    grow(writer, 0, size_hint + insert_size + 4096);

    jpeg_copy_critical_parameters(&reader->cinfo, cinfo);
    cinfo->write_JFIF_header = FALSE;
    cinfo->write_Adobe_marker = FALSE;
    cinfo->scan_info = coding->scans;
    cinfo->num_scans = coding->n_scans;
    cinfo->restart_interval = coding->restart_interval;
    cinfo->optimize_coding = coding->tables == NULL;
    if (coding->tables != NULL)
        use_tables(cinfo, failure, coding);
    else if (coding->dc_slots != NULL)
        use_dc_slots(cinfo, failure, coding);
    jpeg_write_coefficients(cinfo, reader->coefficients);
    append(writer, insert, insert_size);
    jpeg_finish_compress(cinfo);
    find_segments(writer, failure);
}

/* ---- Jobs --------------------------------------------------------------------------------- */

typedef struct {
    Failure failure;
    Limits limits;
    Py_buffer source, insert, second;
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
    jpeg_std_error(&job->failure.mgr);
    job->failure.mgr.error_exit = error_exit;
    job->failure.mgr.emit_message = emit_message;
    job->failure.mgr.output_message = output_message;
    return job;
}

static void
free_writer(Writer *writer)
{
    if (writer->cinfo.err != NULL)
        jpeg_destroy_compress(&writer->cinfo);
    free(writer->bytes);
    free(writer->segments);
    memset(writer, 0, sizeof *writer);
}

/* The libjpeg side can be large; it is freed without the GIL. */
static void
free_readers(Job *job)
{
    if (job->a.cinfo.err != NULL)
        jpeg_destroy_decompress(&job->a.cinfo);
    if (job->b.cinfo.err != NULL)
        jpeg_destroy_decompress(&job->b.cinfo);
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
    PyBuffer_Release(&job->second);
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

static void
run_compare(Job *job)
{
    if (setjmp(job->failure.escape))
        return;
    read_coefficients(&job->a, &job->failure, &job->limits, 2, job->source.buf, job->source.len);
    read_coefficients(&job->b, &job->failure, &job->limits, 2, job->second.buf, job->second.len);
    same_image(&job->a, &job->b, job->difference, sizeof job->difference);
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
                                   job->recoded.segments ? segments_of(&job->recoded)
                                                         : Py_NewRef(Py_None));
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

static PyObject *
py_compare(PyObject *module, PyObject *args)
{
    PyObject *result = NULL;
    Job *job = new_job();
    if (job == NULL)
        return NULL;
    if (PyArg_ParseTuple(args, "y*y*KiK:compare", &job->source, &job->second, &job->limits.pixels,
                         &job->limits.scans, &job->limits.memory) &&
        run(module, job, run_compare))
        result = job->difference[0] ? PyUnicode_FromString(job->difference) : Py_NewRef(Py_None);
    free_job(job);
    return result;
}

static PyMethodDef methods[] = {
    {"transcode", py_transcode, METH_VARARGS,
     "Write a JPEG's coefficients by another scan script, and check that none was lost."},
    {"reencode", py_reencode, METH_VARARGS,
     "Entropy-coded segments of a JPEG's coefficients, coded as another file was."},
    {"compare", py_compare, METH_VARARGS,
     "What differs between the coefficients of two JPEGs, or None."},
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
