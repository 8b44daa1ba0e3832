/*
 * multipart.c
 *		multipart/form-data, read strictly and as a stream.
 *
 * RFC 2046 and 7578 to the letter: CRLF line ends, a Content-Disposition
 * of form-data with a name in every part, the closing delimiter present.
 * Parts with a file name go to a file, so that 200 MB cost no memory.
 */
#include "http.h"

#include <errno.h>
#include <unistd.h>

#define MAX_PART_HEADERS	8192
#define MAX_VALUE			(1024 * 1024)

typedef enum FormState
{
	FORM_DATA,					/* preamble, or a part's content */
	FORM_DELIMITER,				/* just behind a delimiter */
	FORM_HEADERS,
	FORM_END,
	FORM_BROKEN
} FormState;

struct Form
{
	FormState	state;
	char	   *delimiter;		/* CRLF "--" boundary */
	size_t		delimiter_len;
	StrBuf		pending;
	FormPart   *first;
	FormPart   *last;			/* NULL: still in the preamble */
	const char *why;
};

static void
form_break(Form *form, const char *why)
{
	form->state = FORM_BROKEN;
	if (form->why == NULL)
		form->why = why;
}

/* NULL, with a reason, when the content type is no usable form-data. */
Form *
form_begin(const char *content_type, const char **why)
{
	Form	   *form;
	const char *p;
	size_t		len;
	StrBuf		d = {0};

	*why = NULL;
	if (content_type == NULL || !starts_nocase(content_type, "multipart/form-data"))
	{
		*why = "content type is not multipart/form-data";
		return NULL;
	}
	p = find_nocase(content_type, "boundary=");
	if (p == NULL)
	{
		*why = "no boundary in the content type";
		return NULL;
	}
	p += strlen("boundary=");
	if (*p == '"')
		len = strcspn(++p, "\"");
	else
		len = strcspn(p, "; \t");
	if (len == 0 || len > 70)
	{
		*why = "bad boundary in the content type";
		return NULL;
	}
	form = xcalloc(sizeof(Form));
	buf_str(&d, "\r\n--");
	buf_add(&d, p, len);
	form->delimiter = d.data;
	form->delimiter_len = d.len;
	buf_str(&form->pending, "\r\n");
	return form;
}

static void
part_data(Form *form, const char *data, size_t len)
{
	FormPart   *part = form->last;

	if (part == NULL || len == 0)
		return;
	part->bytes += (int64_t) len;
	if (part->filename == NULL)
	{
		if (part->value.len + len > MAX_VALUE)
			form_break(form, "field too long");
		else
			buf_add(&part->value, data, len);
		return;
	}
	while (len > 0)
	{
		ssize_t		n = write(part->fd, data, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
		{
			form_break(form, "could not spool");
			return;
		}
		data += n;
		len -= (size_t) n;
	}
}

/* Parameter of a header value, such as name="x"; NULL if absent. */
static char *
header_param(const char *value, const char *name)
{
	const char *p = value;
	size_t		len = strlen(name);

	while ((p = strchr(p, ';')) != NULL)
	{
		StrBuf		b = {0};

		p++;
		while (*p == ' ' || *p == '\t')
			p++;
		if (strncasecmp(p, name, len) != 0 || p[len] != '=')
			continue;
		p += len + 1;
		buf_str(&b, "");
		if (*p != '"')
		{
			buf_add(&b, p, strcspn(p, "; \t"));
			return b.data;
		}
		for (p++; *p && *p != '"'; p++)
		{
			if (*p == '\\' && (p[1] == '"' || p[1] == '\\'))
				p++;
			buf_char(&b, *p);
		}
		return b.data;
	}
	return NULL;
}

/* Opens a part from its header lines, a NUL-terminated block. */
static void
part_open(Form *form, char *headers)
{
	FormPart   *part = xcalloc(sizeof(FormPart));
	char	   *save = NULL;
	bool		form_data = false;

	part->fd = -1;
	for (char *line = strtok_r(headers, "\r\n", &save); line != NULL;
		 line = strtok_r(NULL, "\r\n", &save))
	{
		if (starts_nocase(line, "content-disposition:"))
		{
			const char *v = line + strlen("content-disposition:");

			v += strspn(v, " \t");
			form_data = starts_nocase(v, "form-data");
			free(part->name);
			free(part->filename);
			part->name = header_param(v, "name");
			part->filename = header_param(v, "filename");
		}
		else if (starts_nocase(line, "content-type:"))
		{
			free(part->content_type);
			part->content_type = trim_copy(line + 13, strlen(line + 13));
		}
	}
	if (form->last != NULL)
		form->last->next = part;
	else
		form->first = part;
	form->last = part;
	buf_str(&part->value, "");
	if (!form_data || part->name == NULL)
		form_break(form, "part without Content-Disposition: form-data and a name");
	else if (part->filename != NULL)
		part->fd = spool_file(&part->path);
	if (form->state != FORM_BROKEN)
		form->state = FORM_DATA;
}

static void
form_consume(Form *form, size_t n)
{
	StrBuf	   *b = &form->pending;

	memmove(b->data, b->data + n, b->len - n);
	b->len -= n;
	b->data[b->len] = '\0';
}

/* Content up to the next delimiter; false when more bytes are needed. */
static bool
step_data(Form *form)
{
	StrBuf	   *b = &form->pending;
	char	   *at = memmem(b->data, b->len, form->delimiter, form->delimiter_len);
	size_t		keep = form->delimiter_len - 1;

	if (at != NULL)
	{
		part_data(form, b->data, at - b->data);
		form_consume(form, (at - b->data) + form->delimiter_len);
		if (form->state == FORM_DATA)
			form->state = FORM_DELIMITER;
		return true;
	}
	if (b->len > keep)
	{
		part_data(form, b->data, b->len - keep);
		form_consume(form, b->len - keep);
	}
	return false;
}

static bool
step_headers(Form *form)
{
	StrBuf	   *b = &form->pending;
	char	   *at = memmem(b->data, b->len, "\r\n\r\n", 4);
	char	   *block;

	if (at == NULL)
	{
		if (b->len > MAX_PART_HEADERS)
			form_break(form, "part headers too long");
		return false;
	}
	block = xstrndup(b->data, at - b->data);
	form_consume(form, (at - b->data) + 4);
	part_open(form, block);
	free(block);
	return true;
}

void
form_feed(Form *form, const char *data, size_t len)
{
	StrBuf	   *b = &form->pending;
	bool		more = true;

	if (form->state == FORM_END || form->state == FORM_BROKEN)
		return;
	buf_add(b, data, len);
	while (more)
	{
		switch (form->state)
		{
			case FORM_DATA:
				more = step_data(form);
				break;
			case FORM_DELIMITER:
				if (b->len < 2)
					return;
				if (memcmp(b->data, "--", 2) == 0)
					form->state = FORM_END;
				else if (memcmp(b->data, "\r\n", 2) == 0)
				{
					form_consume(form, 2);
					form->state = FORM_HEADERS;
				}
				else
					form_break(form, "no line end behind the boundary");
				break;
			case FORM_HEADERS:
				more = step_headers(form);
				break;
			case FORM_END:
			case FORM_BROKEN:
				return;
		}
	}
}

bool
form_finish(Form *form, const char **why)
{
	if (form->state != FORM_END && form->state != FORM_BROKEN)
		form_break(form, "closing boundary missing");
	*why = form->why;
	return form->state == FORM_END;
}

FormPart *
form_first(Form *form)
{
	return form ? form->first : NULL;
}

FormPart *
form_part(Form *form, const char *name)
{
	for (FormPart *p = form_first(form); p != NULL; p = p->next)
	{
		if (p->name != NULL && strcmp(p->name, name) == 0)
			return p;
	}
	return NULL;
}

/* Frees the form and removes the files that nobody took (path not NULL). */
void
form_free(Form *form)
{
	FormPart   *part;

	if (form == NULL)
		return;
	part = form->first;
	while (part != NULL)
	{
		FormPart   *next = part->next;

		if (part->fd >= 0)
			close(part->fd);
		if (part->path != NULL)
			unlink(part->path);
		free(part->path);
		free(part->name);
		free(part->filename);
		free(part->content_type);
		buf_free(&part->value);
		free(part);
		part = next;
	}
	free(form->delimiter);
	buf_free(&form->pending);
	free(form);
}
