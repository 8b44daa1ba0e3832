/*
 * http.h
 *		One request, one reply, and what a provider has to offer to be served.
 *
 * A provider is a few functions.  A new one gets its own file, and a line in
 * the table in http.c; order matters, the first that claims a path serves it.
 */
#ifndef HTTP_H
#define HTTP_H

#include <microhttpd.h>

#include "sim.h"

typedef enum BodyKind
{
	BODY_BUFFER,				/* in memory, up to body_max */
	BODY_FILE,					/* spooled to an unnamed file, body_fd */
	BODY_FORM					/* multipart/form-data, file parts spooled */
} BodyKind;

typedef struct FormPart
{
	char	   *name;
	char	   *filename;		/* NULL unless a file part */
	char	   *content_type;
	StrBuf		value;			/* of parts without a file name */
	char	   *path;			/* where a file part lies; taken by the provider */
	int			fd;
	int64_t		bytes;
	struct FormPart *next;
} FormPart;

typedef struct Form Form;

extern Form *form_begin(const char *content_type, const char **why);
extern void form_feed(Form *form, const char *data, size_t len);
extern bool form_finish(Form *form, const char **why);
extern FormPart *form_part(Form *form, const char *name);
extern FormPart *form_first(Form *form);
extern void form_free(Form *form);

typedef enum DropKind
{
	DROP_NOT,
	DROP_CLOSE,					/* the connection ends */
	DROP_RESET					/* ... with a TCP reset */
} DropKind;

typedef struct Header
{
	char	   *name;
	char	   *value;
	struct Header *next;
} Header;

typedef struct Reply
{
	int			status;
	const char *content_type;
	StrBuf		body;
	int			fd;				/* body comes from this file if not -1 */
	int64_t		fd_from;		/* where in the file the body begins */
	int64_t		fd_bytes;
	int64_t		fill;			/* > 0: body is so many times fill_byte */
	char		fill_byte;
	Header	   *headers;
	double		delay_ms;
	DropKind	drop;
	int64_t		drop_after;		/* body bytes before the drop, -1: none */
	int64_t		hold_after;		/* body bytes before it is held, -1: not */
	double		trickle_ms;		/* > 0: one body byte each so many ms */
} Reply;

struct Provider;
struct Effect;
struct Rule;

typedef struct Request
{
	struct MHD_Connection *conn;
	uint64_t	seq;
	double		arrived;
	char		method[16];
	char	   *path;			/* not decoded, without the query */
	char	   *query;			/* behind the "?", never NULL */
	const struct Provider *provider;
	bool		started;
	bool		served;
	bool		settled;		/* whether and when it is answered */
	bool		inference;		/* counted as in flight */
	BodyKind	body_kind;
	size_t		body_max;
	bool		too_large;
	StrBuf		body;
	int			body_fd;
	int64_t		body_bytes;
	int64_t		cut_after;		/* body bytes before a fault, -1: none */
	int64_t		hold_after;		/* body bytes before it is held, -1: not */
	Form	   *form;
	const char *form_error;
	char	   *secret;			/* the key that was shown, or NULL */
	bool		private;		/* the record does not get the body */
	char	   *note;			/* JSON about the body, for the record */
	StrBuf		prompt;			/* of an inference call, for faults and counts */
	struct Effect *effect;
	struct Rule *held[8];		/* rules that count this one as in flight */
	int			nheld;
	Reply		reply;
} Request;

typedef struct Provider
{
	const char *name;
	bool		(*claims) (const Request *req);
	void		(*body) (Request *req); /* chooses body_kind and body_max */
	void		(*prepare) (Request *req);	/* before faults: secret, prompt */
	void		(*serve) (Request *req, Reply *reply);
	void		(*fault_body) (int status, StrBuf *out);	/* an error's usual body */
	void		(*broken) (Request *req);	/* its body did not arrive in full */
} Provider;

extern void http_start(void);
extern void http_stop(void);
extern int	http_port(void);
extern void request_serve(Request *req);

extern const char *req_header(const Request *req, const char *name);
extern char *req_query(const Request *req, const char *name);
extern char *url_decode(const char *s, size_t len);

extern void reply_header(Reply *reply, const char *name, const char *value);
extern void reply_encode(Reply *reply, const char *prefix, bool gzip);
extern int	spool_file(char **path);

/* timer.c: fn(arg) is called from the timer's thread once due has come. */
typedef void (*TimerFn) (void *arg);
extern void timer_start(void);
extern void timer_add(double due, TimerFn fn, void *arg);
extern void timer_stop(void);
extern bool timer_stopping(void);

#endif							/* HTTP_H */
