/*-------------------------------------------------------------------------
 *
 * body.h
 *		JSON bodies: what providers share to write requests and to read replies.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_PROVIDER_BODY_H
#define DESS_PROVIDER_BODY_H

#include "provider/provider.h"
#include "text/json.h"

/*
 * Appends JSON that somebody else wrote, as one line: outside of its strings a
 * line end is mere space, and inside it cannot stand.  A byte order mark is
 * good only at a text's beginning, so it is left out.
 */
extern void body_append_json(StringInfo out, const char *json, size_t length);

/*
 * Appends the members "code" and "message" of an error for a reply whose body
 * is not JSON, or for one that did not arrive.
 */
extern void body_append_unreadable(StringInfo out, const HttpReply *reply);

/* The same as a member behind others, and the members of an object behind others. */
extern void body_append_member(StringInfo out, const char *name, const char *json);
extern void body_append_members_of(StringInfo out, const char *object);

/* Is the reply's body JSON, apart from bytes that are no UTF-8?  Those are for whoever reads the line. */
extern bool body_is_json(const HttpReply *reply);

/* A string that may have been written as JSON before (else json is NULL). */
extern void body_append_text(StringInfo out, const char *json, const char *text);

/* The root of the user's extra members, or NULL; *doc is to be freed. */
extern JsonValue *body_open_extra(const BatchOptions *options, JsonDoc **doc);

/* Is there a member of that name, whatever its value? */
extern bool body_names(JsonValue *object, const char *name);

/* Checks of parameters as the user wrote them: a JSON number from least to most; a 64-bit integer. */
extern bool body_is_number(const char *text, double least, double most);
extern bool body_is_integer(const char *text);

/* temperature and top_p: NULL, or what is wrong, palloc'd. */
extern char *body_check_sampling(const BatchParameters *parameters);

/* The root of a 2xx reply's document, or NULL; *doc is to be freed either way. */
extern JsonValue *body_open_reply(const HttpReply *reply, JsonDoc **doc);

/* An id that is worth keeping, palloc'd, or NULL: ids are short and printable. */
extern char *body_read_id(JsonValue *object, const char *name);

#endif							/* DESS_PROVIDER_BODY_H */
