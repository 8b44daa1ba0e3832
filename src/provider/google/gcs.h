/*-------------------------------------------------------------------------
 *
 * gcs.h
 *		Google Cloud Storage, as steps: upload, download, list, delete.
 *
 * gcs_range.c compiles outside the backend.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_PROVIDER_GOOGLE_GCS_H
#define DESS_PROVIDER_GOOGLE_GCS_H

#include "provider/provider.h"
#include "text/json.h"

#define GCS_CHUNK		(16 * 1024 * 1024)	/* a multiple of 256 KiB */

/* ---- gcs_range.c ---- */

/* Next offset by a "Range: bytes=0-N" header of an upload; 0 without one, -1 if it is none. */
extern int64 gcs_parse_range(const char *value);

/* "bytes 5-9/10"; *total is -1 for "*".  False if it is none. */
extern bool gcs_parse_content_range(const char *value, int64 *first, int64 *last, int64 *total);

/* A CRC-32C as Cloud Storage writes it (base64, big-endian); palloc'd. */
extern char *gcs_crc32c_text(uint32 crc);

/* "gs://bucket/name" in two palloc'd pieces; false if it is none. */
extern bool gcs_parse_uri(const char *uri, char **bucket, char **name);

/* ---- gcs.c ---- */

/*
 * StageSteps, but for the object's place.  An upload puts stage->spool_file into
 * a new object and leaves its address in remote->input_uri; what an earlier try
 * has put there counts if it is the same.  A download puts the object into
 * stage->sink_file.
 */
extern void gcs_upload(BatchStage *stage, const char *bucket, const char *name, const HttpReply *reply, StepResult *result);
extern void gcs_download(BatchStage *stage, const char *bucket, const char *name, const HttpReply *reply, StepResult *result);

/* One request each.  A list's page has "items" with "name" and "size", and perhaps "nextPageToken". */
extern void gcs_ask_list(BatchStage *stage, StepResult *result, const char *bucket, const char *prefix, const char *page);
extern void gcs_ask_delete(BatchStage *stage, StepResult *result, const char *bucket, const char *name, const char *generation);
extern void gcs_ask_small_upload(BatchStage *stage, StepResult *result, const char *bucket, const char *name, const char *content);

#endif							/* DESS_PROVIDER_GOOGLE_GCS_H */
