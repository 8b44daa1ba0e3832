/*
 * facts.c
 *		Finds the fields that a prompt shows: as JSON, as tags, or as lines.
 *
 * A model does not care how a prompt lays out its data, so neither does this.
 * The layout that yields the most known fields wins.  A line that starts with
 * an unknown name goes on with the field before it: text found on the web may
 * well hold a line "Department: ...".
 */
#include "answer.h"

#include <ctype.h>

typedef enum FactKind
{
	FACT_OTHER, FACT_FIRST, FACT_LAST, FACT_FULL, FACT_UNIVERSITY, FACT_ID, FACT_TEXT
} FactKind;

typedef struct Known
{
	const char *name;
	FactKind	kind;
} Known;

static const Known known[] = {
	{"firstname", FACT_FIRST}, {"first_name", FACT_FIRST}, {"given_name", FACT_FIRST},
	{"forename", FACT_FIRST}, {"first", FACT_FIRST},
	{"lastname", FACT_LAST}, {"last_name", FACT_LAST}, {"surname", FACT_LAST},
	{"family_name", FACT_LAST}, {"last", FACT_LAST},
	{"name", FACT_FULL}, {"full_name", FACT_FULL}, {"person", FACT_FULL},
	{"faculty_member", FACT_FULL}, {"faculty_name", FACT_FULL}, {"professor", FACT_FULL},
	{"university", FACT_UNIVERSITY}, {"institution", FACT_UNIVERSITY},
	{"employer", FACT_UNIVERSITY}, {"school", FACT_UNIVERSITY},
	{"id_text", FACT_ID}, {"identifier", FACT_ID}, {"query", FACT_ID},
	{"search_query", FACT_ID}, {"search", FACT_ID}, {"identity", FACT_ID},
	{"snippet", FACT_TEXT}, {"text", FACT_TEXT}, {"result", FACT_TEXT},
	{"search_result", FACT_TEXT}, {"description", FACT_TEXT}, {"bio", FACT_TEXT},
	{"content", FACT_TEXT}, {"source", FACT_TEXT}, {"snippets", FACT_TEXT},
	{"evidence", FACT_TEXT}, {"results", FACT_TEXT}
};

/* Lower case, everything else than letters and digits an underscore. */
static char *
plain_name(const char *s, size_t len)
{
	StrBuf		b = {0};

	buf_str(&b, "");
	for (size_t i = 0; i < len; i++)
	{
		unsigned char c = s[i];

		if (isalnum(c) || c >= 0x80)
			buf_char(&b, (char) tolower(c));
		else if (b.len > 0 && b.data[b.len - 1] != '_')
			buf_char(&b, '_');
	}
	while (b.len > 0 && b.data[b.len - 1] == '_')
		b.data[--b.len] = '\0';
	return b.data;
}

static FactKind
kind_of(const char *plain)
{
	size_t		len = strlen(plain);

	while (len > 0 && (isdigit((unsigned char) plain[len - 1]) || plain[len - 1] == '_'))
		len--;
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
	{
		if (strlen(known[i].name) == len && strncmp(known[i].name, plain, len) == 0)
			return known[i].kind;
	}
	return FACT_OTHER;
}

static void
add_field(Facts *f, char *plain, const char *value, size_t len)
{
	if (f->nfields >= 64)
	{
		free(plain);
		return;
	}
	f->name[f->nfields] = plain;
	f->value[f->nfields++] = trim_copy(value, len);
}

static void
append_field(Facts *f, const char *more, size_t len)
{
	char	  **v = &f->value[f->nfields - 1];
	StrBuf		b = {0};

	buf_str(&b, *v);
	buf_char(&b, '\n');
	buf_add(&b, more, len);
	free(*v);
	*v = b.data;
}

static int
known_fields(const Facts *f)
{
	int			n = 0;

	for (int i = 0; i < f->nfields; i++)
		n += kind_of(f->name[i]) != FACT_OTHER;
	return n;
}

static void
fields_of_object(Facts *f, const cJSON *o)
{
	const cJSON *c;

	cJSON_ArrayForEach(c, o)
	{
		const cJSON *one;

		if (cJSON_IsString(c) && c->string != NULL)
			add_field(f, plain_name(c->string, strlen(c->string)), c->valuestring,
					  strlen(c->valuestring));
		else if (cJSON_IsArray(c))
		{
			cJSON_ArrayForEach(one, c)
			{
				if (cJSON_IsString(one))
					add_field(f, plain_name(c->string ? c->string : "text",
											strlen(c->string ? c->string : "text")),
							  one->valuestring, strlen(one->valuestring));
			}
		}
		else if (cJSON_IsObject(c))
			fields_of_object(f, c);
	}
}

/* The object of the prompt that has the most known fields. */
static void
read_json(const char *prompt, Facts *best)
{
	int			tries = 0;

	for (const char *p = strchr(prompt, '{'); p != NULL && tries < 20; p = strchr(p + 1, '{'))
	{
		const char *end = NULL;
		cJSON	   *o = cJSON_ParseWithOpts(p, &end, 0);
		Facts		f = {0};

		tries++;
		if (o == NULL)
			continue;
		fields_of_object(&f, o);
		cJSON_Delete(o);
		if (known_fields(&f) >= known_fields(best) && f.nfields > 0)
		{
			facts_free(best);
			*best = f;
		}
		else
			facts_free(&f);
		p = end - 1;
	}
}

static void
read_tags(const char *prompt, Facts *f)
{
	const char *p = prompt;

	while ((p = strchr(p, '<')) != NULL)
	{
		size_t		len = strspn(p + 1, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
								 "0123456789_-");
		const char *open = len ? strchr(p, '>') : NULL;
		char		close[64];
		const char *end;
		char	   *plain;

		if (open == NULL || len > 40)
		{
			p++;
			continue;
		}
		snprintf(close, sizeof(close), "</%.*s>", (int) len, p + 1);
		end = strstr(open, close);
		plain = plain_name(p + 1, len);
		if (end == NULL || kind_of(plain) == FACT_OTHER ||
			memchr(open + 1, '<', end - open - 1) != NULL)
		{
			/* not a field, or one around others: look inside */
			free(plain);
			p = open + 1;
			continue;
		}
		add_field(f, plain, open + 1, end - open - 1);
		p = end + strlen(close);
	}
}

static void
read_lines(const char *prompt, Facts *f)
{
	const char *p = prompt;

	while (*p)
	{
		size_t		len = strcspn(p, "\n");
		const char *s = p + strspn(p, " \t-*#>|`\"'");
		size_t		key = strcspn(s, ":=|\n");
		char	   *plain = NULL;

		if (s < p + len && key > 0 && key <= 40 && s + key < p + len)
			plain = plain_name(s, key);
		if (plain != NULL && kind_of(plain) != FACT_OTHER)
		{
			const char *v = s + key + 1;

			v += strspn(v, "*` ");
			add_field(f, plain, v, v < p + len ? (size_t) (p + len - v) : 0);
		}
		else
		{
			free(plain);
			if (f->nfields > 0 && f->nfields < 64)
				append_field(f, p, len);
		}
		p += len;
		if (*p == '\n')
			p++;
	}
}

static bool
is_blank(const char *s)
{
	static const char *const nothing[] = {"", "nan", "null", "none", "n/a", "-", NULL};
	char	   *t = trim_copy(s, strlen(s));
	bool		blank = false;

	for (int i = 0; nothing[i] != NULL && !blank; i++)
		blank = strcasecmp(t, nothing[i]) == 0;
	free(t);
	return blank;
}

/* First and last name out of a full name. */
static void
split_name(Facts *f, const char *full)
{
	char	   *t = trim_copy(full, strlen(full));
	char	   *comma = strchr(t, ',');
	char	   *space = strrchr(t, ' ');

	if (comma != NULL)
	{
		f->last = trim_copy(t, comma - t);
		f->first = trim_copy(comma + 1, strlen(comma + 1));
	}
	else if (space != NULL)
	{
		f->first = xstrndup(t, strcspn(t, " "));
		f->last = xstrdup(space + 1);
	}
	free(t);
}

/* The name at the beginning of id_text, in front of the university. */
static void
name_from_id(Facts *f)
{
	char	   *id = fold_text(f->id_text);
	char	   *uni = fold_text(f->university ? f->university : "");
	char	   *at = *uni ? strstr(id, uni) : NULL;
	char	   *name = xstrndup(f->id_text, at ? (size_t) (at - id) : 0);

	if (!is_blank(name))
		split_name(f, name);
	free(name);
	free(id);
	free(uni);
}

static void
classify(Facts *f)
{
	for (int i = 0; i < f->nfields; i++)
	{
		FactKind	kind = kind_of(f->name[i]);
		char	  **slot = NULL;

		if (is_blank(f->value[i]))
			continue;
		if (kind == FACT_FIRST)
			slot = &f->first;
		else if (kind == FACT_LAST)
			slot = &f->last;
		else if (kind == FACT_FULL)
			slot = &f->full;
		else if (kind == FACT_UNIVERSITY)
			slot = &f->university;
		else if (kind == FACT_ID)
			slot = &f->id_text;
		else if (f->ntext < 32)
			slot = &f->text[f->ntext++];
		if (slot != NULL && *slot == NULL)
			*slot = xstrdup(f->value[i]);
	}
	if (f->first == NULL && f->last == NULL && f->full != NULL)
		split_name(f, f->full);
	if (f->first == NULL && f->last == NULL && f->full == NULL && f->id_text != NULL)
		name_from_id(f);
}

/* Fills f, which the caller frees in any case; it may stay empty. */
void
facts_read(const char *prompt, Facts *f)
{
	Facts		tags = {0};
	Facts		lines = {0};

	memset(f, 0, sizeof(*f));
	read_json(prompt, f);
	read_tags(prompt, &tags);
	read_lines(prompt, &lines);
	if (known_fields(&tags) > known_fields(f))
	{
		facts_free(f);
		*f = tags;
	}
	else
		facts_free(&tags);
	if (known_fields(&lines) > known_fields(f))
	{
		facts_free(f);
		*f = lines;
	}
	else
		facts_free(&lines);
	classify(f);
}

const char *
facts_value(const Facts *f, const char *name)
{
	char	   *plain = plain_name(name, strlen(name));
	const char *v = NULL;

	for (int i = 0; i < f->nfields && v == NULL; i++)
	{
		if (strcmp(f->name[i], plain) == 0)
			v = f->value[i];
	}
	free(plain);
	return v;
}

void
facts_free(Facts *f)
{
	free(f->first);
	free(f->last);
	free(f->full);
	free(f->university);
	free(f->id_text);
	for (int i = 0; i < f->ntext; i++)
		free(f->text[i]);
	for (int i = 0; i < f->nfields; i++)
	{
		free(f->name[i]);
		free(f->value[i]);
	}
	memset(f, 0, sizeof(*f));
}
