/*
 * storage.h
 *		What the files of the Cloud Storage provider share.
 */
#ifndef STORAGE_H
#define STORAGE_H

#include "google.h"

typedef struct Object
{
	char	   *bucket;
	char	   *name;
	char	   *content_type;
	char	   *metadata;		/* JSON, or NULL */
	int64_t		generation;
	int64_t		size;
	int			fd;				/* an unnamed file */
	uint32_t	crc;
	unsigned char md5[16];
	double		created;		/* real_ms() */
	double		visible_at;		/* now_ms(); absent before */
} Object;

/* How a new object shall be, from the query, the metadata and the headers. */
typedef struct NewObject
{
	char	   *bucket;
	char	   *name;
	char	   *content_type;
	char	   *metadata;
	char	   *crc;			/* as the client says, or NULL */
	char	   *md5;
	int64_t		if_generation;	/* -1: any */
	int64_t		if_not_generation;
} NewObject;

/* storage.c */
extern bool storage_error(GError *e, int status, const char *reason, const char *fmt,...)
			__attribute__((format(printf, 4, 5)));
extern void storage_refuse(Reply *reply, const GError *e);
extern bool bucket_check(const char *name, GError *e);
extern void object_write(StrBuf *b, const Object *o);
extern Object *object_find(const char *bucket, const char *name);
extern Object **objects_all(int *n);
extern bool object_visible(const Object *o);
extern void object_remove(Object *o);
extern const Object *object_store(const NewObject *n, int fd, GError *e);
extern void reply_json(Request *req, Reply *reply, const char *root);

/* storage_read.c */
extern void serve_object(Request *req, Reply *reply, const char *bucket, const char *name);

/* storage_list.c */
extern void serve_list(Request *req, Reply *reply, const char *bucket);

/* storage_fields.c */
extern bool fields_apply(cJSON *json, const char *fields, GError *e);

/* storage_upload.c */
extern bool new_object_read(Request *req, const char *bucket, const cJSON *meta, NewObject *n,
							GError *e);
extern void new_object_headers(Request *req, NewObject *n);
extern bool new_object_allowed(const NewObject *n, GError *e);
extern void new_object_free(NewObject *n);
extern void serve_upload(Request *req, Reply *reply, const char *bucket);

/* storage_resumable.c */
extern void session_start(Request *req, Reply *reply, const char *bucket);
extern void session_put(Request *req, Reply *reply);
extern void session_cancel(Request *req, Reply *reply);
extern void session_broken(Request *req);
extern void sessions_clear(void);

#endif							/* STORAGE_H */
