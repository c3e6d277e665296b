/* See jpeg_io.h. libjpeg's memory sources, and a destination of our own. */

#include "jpeg_io.h"

#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <jerror.h>

/* ---- Failing ------------------------------------------------------------------------------ */

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

void
fail(Failure *failure, Outcome outcome, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(failure->message, sizeof failure->message, format, args);
    va_end(args);
    failure->outcome = outcome;
    longjmp(failure->escape, 1);
}

void
init_failure(Failure *failure)
{
    jpeg_std_error(&failure->mgr);
    failure->mgr.error_exit = error_exit;
    failure->mgr.emit_message = emit_message;
    failure->mgr.output_message = output_message;
}

/* ---- Reading ------------------------------------------------------------------------------ */

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

void
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

void
free_reader(Reader *reader)
{
    if (reader->cinfo.err != NULL)
        jpeg_destroy_decompress(&reader->cinfo);
    memset(reader, 0, sizeof *reader);
}

/* ---- Writing ------------------------------------------------------------------------------ */

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
    if (n > NUM_HUFF_TBLS || coding->tables_size != (size_t)n * 2 * PACKED_TABLE)
        fail(failure, BAD_CALL, "Huffman tables of %zu bytes do not fit %d components",
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
    if (coding->dc_slots_size != (size_t)cinfo->num_components)
        fail(failure, BAD_CALL, "%zu DC table numbers do not fit %d components",
             coding->dc_slots_size, cinfo->num_components);
    for (int i = 0; i < cinfo->num_components; i++)
        cinfo->comp_info[i].dc_tbl_no = coding->dc_slots[i]; /* libjpeg checks its range */
}

void
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

void
free_writer(Writer *writer)
{
    if (writer->cinfo.err != NULL)
        jpeg_destroy_compress(&writer->cinfo);
    free(writer->bytes);
    free(writer->segments);
    memset(writer, 0, sizeof *writer);
}
