/*
 * gemini.h
 *		What the files of the Gemini API provider share.
 */
#ifndef GEMINI_H
#define GEMINI_H

#include "google_job.h"

typedef struct GFile
{
	char		id[64];			/* behind "files/" */
	int			key;
	char	   *display_name;	/* NULL: none */
	char	   *mime_type;
	int			fd;
	int64_t		bytes;
	char		sha256[65];
	double		created;		/* real_ms() */
	double		until;			/* now_ms() */
	double		visible_at;
	double		ready_at;
	bool		broken;
	bool		generated;		/* by a batch */
	struct GFile *older;
} GFile;

/* gemini_files.c */
extern GFile *gfile_find(const char *id, int key);
extern GFile *gfile_add(int key, const char *id, int fd, const char *mime_type);
extern const char *gfile_state(const GFile *f);
extern void gfile_write(StrBuf *b, const char *key, const GFile *f);
extern int64_t gfiles_bytes(int key);
extern void gemini_files_list(Request *req, Reply *reply, int key);
extern void gemini_file(Request *req, Reply *reply, int key, char *id, bool by_download_path);
extern bool gemini_page(Request *req, long dflt, long max, long *size, char **after, GError *e);
extern void gemini_token(StrBuf *b, const char *last);

/* gemini_upload.c */
extern void gemini_upload(Request *req, Reply *reply);
extern void gemini_broken(Request *req);
extern void gemini_uploads_clear(void);

/* gemini.c */
extern int	gemini_key(const Request *req, GError *e);
extern void lower_id(char *dst, size_t size, int chars);

/* gemini_batches.c */
extern void gemini_create(Request *req, Reply *reply, int key, const GModel *model);
extern void gemini_batches_list(Request *req, Reply *reply, int key);
extern void gemini_batch(Request *req, Reply *reply, int key, char *id);

#endif							/* GEMINI_H */
