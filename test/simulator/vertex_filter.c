/*
 * vertex_filter.c
 *		The filter of a list of jobs: terms joined by AND.
 *
 * Fields are display_name, state, create_time, model_display_name and
 * labels.KEY; display_name knows the wildcard * behind a colon.  Anything
 * else is refused: a filter that silently fits everything would be worse.
 */
#include "vertex.h"

#include <ctype.h>
#include <time.h>

typedef struct Term
{
	char		field[100];
	char		op[3];
	char		value[600];
} Term;

static void
skip_blanks(const char **p)
{
	while (isspace((unsigned char) **p))
		(*p)++;
}

static bool
read_op(const char **p, Term *t)
{
	static const char *const ops[] = {"!=", "<=", ">=", "=", ":", "<", ">", NULL};

	for (int i = 0; ops[i] != NULL; i++)
	{
		size_t		len = strlen(ops[i]);

		if (strncmp(*p, ops[i], len) == 0)
		{
			memcpy(t->op, ops[i], len + 1);
			*p += len;
			return true;
		}
	}
	return false;
}

/* One term; p ends behind it. */
static bool
read_term(const char **p, Term *t)
{
	size_t		n = 0;

	memset(t, 0, sizeof(*t));
	while ((isalnum((unsigned char) **p) || strchr("_.-", **p)) && **p && n < sizeof(t->field) - 1)
		t->field[n++] = *(*p)++;
	skip_blanks(p);
	if (n == 0 || !read_op(p, t))
		return false;
	skip_blanks(p);
	n = 0;
	if (**p == '"')
	{
		for ((*p)++; **p && **p != '"' && n < sizeof(t->value) - 1;)
		{
			if (**p == '\\' && (*p)[1])
				(*p)++;
			t->value[n++] = *(*p)++;
		}
		if (**p != '"')
			return false;
		(*p)++;
	}
	else
	{
		while (**p && !isspace((unsigned char) **p) && n < sizeof(t->value) - 1)
			t->value[n++] = *(*p)++;
		if (n == 0)
			return false;
	}
	return true;
}

static bool
fits_time(double ms, const Term *t)
{
	struct tm	tm = {0};
	double		limit;

	if (strptime(t->value, "%Y-%m-%dT%H:%M:%S", &tm) == NULL)
		return false;
	limit = (double) timegm(&tm) * 1000;
	switch (t->op[0])
	{
		case '<':
			return t->op[1] ? ms <= limit : ms < limit;
		case '>':
			return t->op[1] ? ms >= limit : ms > limit;
		default:
			return false;
	}
}

static bool
fits_text(const char *have, const Term *t)
{
	if (strcmp(t->op, "=") == 0)
		return have != NULL && strcmp(have, t->value) == 0;
	if (strcmp(t->op, "!=") == 0)
		return have == NULL || strcmp(have, t->value) != 0;
	return have != NULL && (strcmp(t->value, "*") == 0 || glob_match(t->value, have));
}

/* Whether the job fits; an error's status is set if the filter is malformed. */
static bool
fits(const Job *job, const Term *t, GError *e)
{
	if (strcmp(t->field, "display_name") == 0 || strcmp(t->field, "displayName") == 0)
		return fits_text(job->display_name, t);
	if (strcmp(t->field, "state") == 0)
		return fits_text(job_state_name(job, "JOB_STATE_"), t);
	if (strcmp(t->field, "create_time") == 0)
		return fits_time(job->created, t);
	if (strncmp(t->field, "labels.", 7) == 0)
		return fits_text(json_str(json_get(job->request, "labels"), t->field + 7), t);
	if (strcmp(t->field, "labels") == 0 && t->op[0] == ':')
		return json_get(json_get(job->request, "labels"), t->value) != NULL;
	return gerror(e, 400, "Invalid filter: field \"%.80s\" cannot be filtered on.", t->field);
}

bool
filter_match(const Job *job, const char *filter, GError *e)
{
	const char *p = filter;
	bool		match = true;

	skip_blanks(&p);
	while (*p)
	{
		Term		t;

		if (!read_term(&p, &t))
			return gerror(e, 400, "Invalid filter: \"%.300s\".", filter);
		match = fits(job, &t, e) && match;
		if (e->status != 0)
			return false;
		skip_blanks(&p);
		if (strncasecmp(p, "AND", 3) == 0 && isspace((unsigned char) p[3]))
			p += 3;
		skip_blanks(&p);
	}
	return match;
}
