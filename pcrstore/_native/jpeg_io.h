/* Read and write the coefficients of JPEG files by libjpeg, whose every complaint is a failure.
 *
 *   bytes --read_coefficients--> Reader --write_coefficients--> Writer: bytes and segments
 *              |                                   |
 *              +------------> Failure <------------+    by longjmp to failure->escape
 *
 * A caller owns a Failure, its Readers and Writers, all zeroed at first, calls init_failure, sets
 * failure->escape by setjmp, and frees each Reader and Writer whatever happened. No Python here: all
 * of it runs without the GIL.
 */

#ifndef PCRSTORE_JPEG_IO_H
#define PCRSTORE_JPEG_IO_H

#include <setjmp.h>
#include <stdio.h>

#include <jpeglib.h>

/* One packed Huffman table: the 16 counts of T.81 B.2.4.2, then 256 symbols, zero-filled. */
#define PACKED_TABLE (16 + 256)

typedef enum { FINE, DAMAGED, UNSUPPORTED, OVER_LIMIT, NO_MEMORY, BAD_CALL, BAD_LIBRARY } Outcome;

typedef struct {
    struct jpeg_error_mgr mgr; /* first, so that libjpeg's pointer to it is one to us */
    jmp_buf escape;
    Outcome outcome;
    char message[JMSG_LENGTH_MAX];
} Failure;

void init_failure(Failure *failure);

/* Note an outcome and a message, and jump to failure->escape. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4), noreturn))
#endif
void fail(Failure *failure, Outcome outcome, const char *format, ...);

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

/* Read all coefficients of a file; `copies` of them will be held at once by the caller. */
void read_coefficients(Reader *reader, Failure *failure, const Limits *limits, int copies,
                       const void *bytes, size_t size);

/* Free what a reader holds; it may have read nothing. */
void free_reader(Reader *reader);

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
    Segment *segments; /* one for each of cinfo.num_scans; NULL before a file is complete */
} Writer;

/* How to code coefficients. */
typedef struct {
    jpeg_scan_info *scans;
    int n_scans;
    const unsigned char *tables; /* DC and AC table of each component, or NULL for optimal ones */
    size_t tables_size;
    const unsigned char *dc_slots; /* DC table number of each component, or NULL for libjpeg's */
    size_t dc_slots_size;
    unsigned int restart_interval;
} Coding;

/* Write the coefficients of `reader`. `insert` goes behind SOI: libjpeg would write a JFIF or
 * Adobe segment of its own there, which need not be the source's. */
void write_coefficients(Writer *writer, Failure *failure, Reader *reader, const Coding *coding,
                        const void *insert, size_t insert_size, size_t size_hint);

/* Free what a writer holds, and zero it; it may have written nothing. */
void free_writer(Writer *writer);

#endif
