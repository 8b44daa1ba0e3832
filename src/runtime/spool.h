/*-------------------------------------------------------------------------
 *
 * spool.h
 *		Request and result files while they travel.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_RUNTIME_SPOOL_H
#define DESS_RUNTIME_SPOOL_H

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"

typedef enum SpoolKind
{
	SPOOL_REQUESTS,
	SPOOL_RESULTS				/* numbered, one a result file */
} SpoolKind;

/* Name of a file, palloc'd.  The directory of this database is made if it can be; never raises. */
extern char *spool_path(int64 job_id, int batch_no, SpoolKind kind, int number);

/* errcode_for_file_access() for files of the spool. */
extern int	spool_errcode(void);

/* Length in bytes, -1 if there is no such file. */
extern int64 spool_length(const char *path);

/*
 * Writes data at offset, cutting off whatever stood behind it: what a crash
 * left beyond the committed length goes.  Raises on I/O errors (53100 when
 * the disk is full).
 */
extern void spool_write(const char *path, int64 offset, const char *data, size_t length);
extern void spool_sync(const char *path);
extern void spool_truncate(const char *path, int64 length);

/* CRC-32C of a range, going on from the value of what stands before it (0 at the start). */
extern uint32 spool_crc32c(const char *path, int64 from, int64 length, uint32 before);

/* All files of one batch.  What is not there is no error. */
extern void spool_remove_batch(int64 job_id, int batch_no);

/* Everything of a database that was dropped. */
extern void spool_remove_database(Oid database);

/* Removes files of batches that keep() does not claim.  Returns the bytes that are left. */
extern int64 spool_sweep(bool (*keep) (int64 job_id, int batch_no));

/*
 * The job whose table's code ended the process, kept for the next one; 0: none.
 * It is written when the process ends, and never raises.
 */
extern void spool_note_culprit(int64 job_id);
extern int64 spool_culprit(void);
extern void spool_forget_culprit(void);

/* Why the last worker could not start, kept until one does; NULL: it could. */
extern void spool_note_start_error(const char *message);
extern char *spool_start_error(void);
extern void spool_forget_start_error(void);

/* Lines of a file, from an offset; lives in the context it was opened in and is closed with it. */
typedef struct SpoolReader SpoolReader;

extern SpoolReader *spool_open(const char *path, int64 offset);

/* The next line without its newline, NULL at the end.  An unfinished last line counts only if whole_file. */
extern char *spool_next_line(SpoolReader *reader, size_t *length, bool whole_file);
extern int64 spool_offset(const SpoolReader *reader);	/* of the next line */
extern void spool_close(SpoolReader *reader);

/*
 * A file that grows for long, of which there may be hundreds: it is opened for
 * each write, and does not stay open.  Not as a virtual descriptor: where
 * closing tells that there is no room (NFS, quotas), PostgreSQL would end all
 * sessions, and here the data are still in memory.
 */
extern void spool_create(const char *path);	/* unless it exists; raises */

/* Writes all of it at offset; false, and errno, if part of it may not be there. */
extern bool spool_write_at(const char *path, int64 offset, const char *data, size_t length);

#endif							/* DESS_RUNTIME_SPOOL_H */
