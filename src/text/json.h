/*-------------------------------------------------------------------------
 *
 * json.h
 *		Strict JSON reading over cJSON, and JSON writing into a StringInfo.
 *
 * Remote text is never trusted: a document that is not UTF-8, that does not
 * end where its value ends, that nests deeper than JSON_MAX_DEPTH or holds more
 * than JSON_MAX_VALUES is refused with a reason.  NUL escapes and lone
 * surrogates become U+FFFD, because PostgreSQL's text cannot hold them.
 * Nothing here raises an error because of the content.
 *
 * cJSON is the JSON library: it reads documents, and its tree is what everybody
 * looks at.  json_scan.c does what cJSON cannot do: it checks a text against
 * RFC 8259 and UTF-8, keeps numbers exactly as they are written, and reads a
 * line in a single pass without an allocation a value.  A document is read by
 * cJSON after that check, a line by json_scan.c alone.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_TEXT_JSON_H
#define DESS_TEXT_JSON_H

#include "lib/stringinfo.h"

#define JSON_MAX_DEPTH	512
#define JSON_MAX_VALUES 1000000

typedef struct JsonDoc JsonDoc;
typedef const struct cJSON JsonValue;

/*
 * Reading.  A document keeps no pointer to the text.  It is freed by json_free()
 * or, at the latest, with the memory context that was current when it was parsed.
 * When the text is refused NULL is returned and *why, a constant, continues a
 * sentence: "text does not end ...".
 */
extern PGDLLEXPORT JsonDoc *json_parse(const char *text, size_t len, const char **why);

/* The same for what there are millions of, lines of results and answers: several times as fast. */
extern PGDLLEXPORT JsonDoc *json_parse_line(const char *text, size_t len, const char **why);
extern PGDLLEXPORT void json_free(JsonDoc *doc);
extern PGDLLEXPORT JsonValue *json_root(const JsonDoc *doc);

/* The same strictness without building anything; any number of values, but no byte order mark in front. */
extern bool json_is_valid(const char *text, size_t len, const char **why);

/* The same, and a palloc'd copy that differs from text only in NUL escapes and lone surrogates. */
extern char *json_clean(const char *text, size_t len, const char **why);

/* Members are found case-sensitively, the last of equal names; a JSON null counts as absent. */
extern PGDLLEXPORT JsonValue *json_member(JsonValue *object, const char *name);
extern PGDLLEXPORT JsonValue *json_path(JsonValue *value, const char *path);	/* "response.body.error", "choices[0].message" */
extern PGDLLEXPORT JsonValue *json_first(JsonValue *container);	/* first element or member, or NULL */
extern PGDLLEXPORT JsonValue *json_next(JsonValue *value);
extern PGDLLEXPORT const char *json_name(JsonValue *value);	/* member's name */
extern PGDLLEXPORT bool json_is_object(JsonValue *value);
extern PGDLLEXPORT bool json_is_array(JsonValue *value);
extern PGDLLEXPORT bool json_is_string(JsonValue *value);
extern PGDLLEXPORT bool json_is_null(JsonValue *value);	/* also true for NULL */
extern PGDLLEXPORT const char *json_string(JsonValue *value);	/* NULL unless a string */
extern PGDLLEXPORT const char *json_member_string(JsonValue *object, const char *name);
extern PGDLLEXPORT char *json_member_copy(JsonValue *object, const char *name); /* the same, palloc'd */
extern PGDLLEXPORT bool json_int64(JsonValue *value, int64 *result);	/* a number, or a string of digits */
extern PGDLLEXPORT int64 json_member_int64(JsonValue *object, const char *name, int64 otherwise);
extern PGDLLEXPORT bool json_bool(JsonValue *value, bool otherwise);

/* A scalar as text (number as it was written, true, string's content), an object or array as JSON text; palloc'd. */
extern PGDLLEXPORT char *json_to_text(JsonValue *value);

/* Writing */
extern PGDLLEXPORT void json_append_string(StringInfo out, const char *text, size_t len);	/* with its quotes */
extern PGDLLEXPORT void json_append_cstring(StringInfo out, const char *text);
extern PGDLLEXPORT void json_append_value(StringInfo out, JsonValue *value);	/* without white space; NULL as null */

/* true if the bytes are valid UTF-8 without NUL */
extern PGDLLEXPORT bool json_is_utf8(const char *text, size_t len);

/* Puts a question mark for every byte that is no UTF-8. */
extern void json_replace_invalid(char *text, size_t len);

/*
 * Copy of text cut to at most limit bytes on a UTF-8 character boundary,
 * control characters as spaces, bytes that are no UTF-8 as question marks.
 */
extern PGDLLEXPORT char *json_excerpt(const char *text, size_t limit);

#endif							/* DESS_TEXT_JSON_H */
