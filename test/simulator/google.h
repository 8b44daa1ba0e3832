/*
 * google.h
 *		What the files of the Google providers share: errors, times, tokens.
 *
 * Tokens, objects, upload sessions, files and jobs are guarded by google_lock.
 */
#ifndef GOOGLE_H
#define GOOGLE_H

#include <pthread.h>

#include "faults.h"
#include "http.h"
#include "record.h"

#define SCOPE_CLOUD		"https://www.googleapis.com/auth/cloud-platform"
#define SCOPE_STORAGE	"https://www.googleapis.com/auth/devstorage."
#define PROJECT_NUMBER	"123456789012"

extern pthread_mutex_t google_lock;

/* google.Status as the APIs show it; an empty name goes by the status. */
typedef struct GError
{
	int			status;
	char		name[32];
	char		reason[48];		/* Cloud Storage: errors[].reason */
	char		message[1000];
	char		details[1400];	/* members of the details array, JSON */
} GError;

extern bool gerror(GError *e, int status, const char *fmt,...) __attribute__((format(printf, 3, 4)));
extern const char *gerror_name(const GError *e);
extern int	gerror_code(const GError *e);
extern void gerror_write(StrBuf *b, const GError *e);
extern void gerror_reply(Reply *reply, const GError *e);
extern void google_fault_body(int status, StrBuf *out);

/* google.c: small things */
extern double real_ms(void);
extern void jw_stamp(StrBuf *b, const char *key, double ms);
extern void jw_int_text(StrBuf *b, const char *key, int64_t val);
extern int	split_path(const char *path, char **seg, int max);
extern void free_path(char **seg, int n);
extern char *request_origin(const Request *req);
extern void bearer_secret(Request *req);
extern cJSON *google_body(Request *req, GError *e);
extern const cJSON *proto_get(const cJSON *o, const char *name);
extern const char *proto_str(const cJSON *o, const char *name);
extern int64_t proto_int(const cJSON *o, const char *name, int64_t dflt);
extern void keep_upload(const char *name, int from, int64_t bytes);
extern void copy_bytes(int from, int64_t at, int64_t bytes, int to);

/* google_crypto.c */
extern char *base64_encode(const unsigned char *s, size_t len);
extern unsigned char *base64url_decode(const char *s, size_t len, size_t *out);
extern uint32_t crc32c(uint32_t crc, const void *data, size_t len);
extern char *crc32c_text(uint32_t crc);
extern const char *signing_key_id(void);
extern char *signing_key_pem(void);
extern bool signature_good(const char *signed_text, size_t len, const unsigned char *sig,
						   size_t sig_len);
extern void crypto_stop(void);

/* google_tokens.c */
typedef enum TokenKind
{
	TOKEN_SERVICE_ACCOUNT, TOKEN_USER, TOKEN_METADATA, TOKEN_FEDERATED, TOKEN_IMPERSONATED,
	TOKEN_KINDS
} TokenKind;

extern const char *token_issue(TokenKind kind, const char *scope, double seconds);
extern bool token_check(const Request *req, const char *scope, GError *e);
extern void tokens_revoke(const char *tail);
extern void tokens_clear(void);
extern void tokens_write(StrBuf *b);

/* google_jwt.c */
typedef struct Jwt
{
	cJSON	   *header;
	cJSON	   *claims;
	bool		signed_well;
} Jwt;

extern bool jwt_read(const char *text, Jwt *jwt);
extern void jwt_free(Jwt *jwt);

/* google_auth.c */
extern const char *service_account_email(void);
extern const char *google_project(void);
extern bool own_project(const char *name);
extern void credentials_write_files(void);
extern void credentials_revoke_user(void);
extern void credentials_reset(void);

/* storage.c, as the jobs need it */
extern int	storage_open(const char *bucket, const char *name, int64_t *bytes, double *visible_at);
extern bool storage_bucket_exists(const char *name);
extern void storage_put(const char *bucket, const char *name, const char *content_type, int fd,
						double visible_at);
extern int	storage_match(const char *bucket, const char *pattern, char ***names);
extern void storage_reset(void);
extern int	storage_objects(void);

/* gemini_files.c */
extern void gemini_reset(void);

#endif							/* GOOGLE_H */
