/*
 * storage_list.c
 *		Lists of objects: pages, prefixes, and pages without a single item.
 */
#include "storage.h"

typedef struct Listing
{
	const char *bucket;
	char	   *prefix;
	char	   *delimiter;
	char	   *from;			/* startOffset */
	char	   *until;			/* endOffset */
	char	   *glob;
	char	   *after;			/* last name of the page before, or NULL */
	long		max;
	StrBuf		items;
	StrBuf		prefixes;
	StrBuf		last_prefix;
	StrBuf		last;			/* where the next page goes on */
	bool		more;
} Listing;

static bool
wanted(const Listing *l, const Object *o)
{
	return strcmp(o->bucket, l->bucket) == 0 && object_visible(o) &&
		(l->prefix == NULL || strncmp(o->name, l->prefix, strlen(l->prefix)) == 0) &&
		(l->from == NULL || strcmp(o->name, l->from) >= 0) &&
		(l->until == NULL || *l->until == '\0' || strcmp(o->name, l->until) < 0) &&
		(l->glob == NULL || glob_match(l->glob, o->name)) &&
		(l->after == NULL || strcmp(o->name, l->after) > 0);
}

/* The common prefix that stands for the object, its length; 0: none. */
static size_t
folded(const Listing *l, const Object *o)
{
	size_t		skip = l->prefix ? strlen(l->prefix) : 0;
	const char *at;

	if (l->delimiter == NULL || *l->delimiter == '\0')
		return 0;
	at = strstr(o->name + skip, l->delimiter);
	return at ? (size_t) (at - o->name) + strlen(l->delimiter) : 0;
}

static void
collect(Listing *l)
{
	int			n;
	Object	  **all = objects_all(&n);
	long		room = l->max;

	for (int i = 0; i < n; i++)
	{
		const Object *o = all[i];
		size_t		fold;

		if (!wanted(l, o))
			continue;
		fold = folded(l, o);
		if (fold > 0 && l->last_prefix.len == fold &&
			memcmp(l->last_prefix.data, o->name, fold) == 0)
		{
			buf_reset(&l->last);
			buf_str(&l->last, o->name);
			continue;
		}
		if (room-- == 0)
		{
			l->more = true;
			return;
		}
		buf_reset(&l->last);
		buf_str(&l->last, o->name);
		if (fold > 0)
		{
			char	   *text = xstrndup(o->name, fold);

			buf_reset(&l->last_prefix);
			buf_add(&l->last_prefix, text, fold);
			jw_str(&l->prefixes, NULL, text);
			free(text);
		}
		else
			object_write(&l->items, o);
	}
}

/* A page token is base64url of the last name, with a mark before it. */
static void
write_token(StrBuf *b, const char *last)
{
	StrBuf		t = {0};
	char	   *text;

	buf_str(&t, "after:");
	buf_str(&t, last);
	text = base64_encode((unsigned char *) t.data, t.len);
	for (char *p = text; *p; p++)
		*p = *p == '+' ? '-' : *p == '/' ? '_' : *p;
	text[strcspn(text, "=")] = '\0';
	jw_str(b, "nextPageToken", text);
	free(text);
	buf_free(&t);
}

static bool
read_token(Request *req, Listing *l, GError *e)
{
	char	   *token = req_query(req, "pageToken");
	size_t		n;
	unsigned char *text = NULL;

	if (token != NULL && *token)
	{
		text = base64url_decode(token, strlen(token), &n);
		if (text == NULL || strncmp((char *) text, "after:", 6) != 0)
		{
			free(token);
			free(text);
			return storage_error(e, 400, "invalid", "Invalid argument.");
		}
		l->after = xstrdup((char *) text + 6);
	}
	free(token);
	free(text);
	return true;
}

static bool
read_max(Request *req, Listing *l, GError *e)
{
	char	   *text = req_query(req, "maxResults");
	char	   *end;

	l->max = 1000;
	if (text != NULL)
	{
		l->max = strtol(text, &end, 10);
		if (end == text || *end || l->max < 0)
		{
			free(text);
			return storage_error(e, 400, "invalidParameter", "Invalid value for maxResults.");
		}
		if (l->max == 0 || l->max > 1000)
			l->max = 1000;
	}
	free(text);
	return true;
}

static void
list_write(Listing *l, bool empty, StrBuf *b)
{
	buf_char(b, '{');
	jw_str(b, "kind", "storage#objects");
	if (empty)
		write_token(b, l->after ? l->after : "");
	else if (l->more)
		write_token(b, l->last.data);
	/* an empty list has no member for it */
	if (l->prefixes.len > 0 && !empty)
	{
		jw_raw(b, "prefixes", "[");
		buf_add(b, l->prefixes.data, l->prefixes.len);
		buf_char(b, ']');
	}
	if (l->items.len > 0 && !empty)
	{
		jw_raw(b, "items", "[");
		buf_add(b, l->items.data, l->items.len);
		buf_char(b, ']');
	}
	buf_char(b, '}');
}

void
serve_list(Request *req, Reply *reply, const char *bucket)
{
	Listing		l = {.bucket = bucket};
	cJSON	   *order = faults_object(ON_STORAGE, req, NULL, NULL);
	StrBuf		b = {0};
	GError		e;

	l.prefix = req_query(req, "prefix");
	l.delimiter = req_query(req, "delimiter");
	l.from = req_query(req, "startOffset");
	l.until = req_query(req, "endOffset");
	l.glob = req_query(req, "matchGlob");
	if (read_token(req, &l, &e) && read_max(req, &l, &e))
	{
		pthread_mutex_lock(&google_lock);
		collect(&l);
		pthread_mutex_unlock(&google_lock);
		list_write(&l, json_true(order, "empty_page"), &b);
		reply_json(req, reply, b.data);
	}
	else
		storage_refuse(reply, &e);
	cJSON_Delete(order);
	buf_free(&b);
	buf_free(&l.items);
	buf_free(&l.prefixes);
	buf_free(&l.last_prefix);
	buf_free(&l.last);
	free(l.prefix);
	free(l.delimiter);
	free(l.from);
	free(l.until);
	free(l.glob);
	free(l.after);
}
