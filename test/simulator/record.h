/*
 * record.h
 *		What arrived (record.c) and what was done with it (stats.c).
 */
#ifndef RECORD_H
#define RECORD_H

#include "http.h"

typedef struct Usage
{
	int64_t		input;
	int64_t		cached;
	int64_t		written;		/* to the cache, part of the input */
	int64_t		output;
	int64_t		reasoning;
} Usage;

extern void record_request(Request *req);
extern void record_status(const Request *req, int status, const char *how);
extern void record_write(StrBuf *b, int64_t since, const char *path,
						 const char *method, int64_t limit);
extern void record_reset(void);

typedef enum Counter
{
	COUNT_BATCHES_CREATED,
	COUNT_BATCHES_CANCELLED,
	COUNT_BATCHES_COMPLETED,
	COUNT_BATCHES_FAILED,
	COUNT_BATCHES_EXPIRED,
	COUNT_FILES_CREATED,
	COUNT_FILES_DELETED,
	COUNT_BYTES_UPLOADED,
	COUNT_ROWS_OK,
	COUNT_ROWS_FAILED,
	COUNT_ONLINE_OK,
	COUNT_ONLINE_FAILED,
	COUNT_FAULTS,
	COUNT_CONNECTIONS,
	COUNTERS
} Counter;

/* Whose counts besides the totals; OpenAI's are what is left of those. */
typedef enum By
{
	BY_VERTEX, BY_GEMINI, BY_STORAGE, BY_ALL
} By;

extern void stats_count(Counter what, int64_t n);
extern void stats_count_by(By who, Counter what, int64_t n);
extern void stats_used_by(By who, bool batch, const Usage *u);
extern void stats_arrival(const Request *req);
extern void stats_in_flight(int delta);
extern void stats_served(bool batch, const Usage *usage, const char *prompt,
						 size_t prompt_len, const char *custom_id);
extern void stats_write(StrBuf *b);
extern void stats_reset(void);

#endif							/* RECORD_H */
