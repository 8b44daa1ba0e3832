/*
 * answer.c
 *		Answers a prompt by reading it, or as a test ordered.
 *
 * A question for a department is answered from the texts that the prompt
 * shows.  Any other prompt gets something deterministic: an instance of the
 * schema if one is demanded, else the first words of what the user said.
 */
#include "answer.h"

#include "schema.h"

#include <pthread.h>

typedef struct Order
{
	char	   *contains;
	cJSON	   *answer;
	int64_t		times;			/* -1: always */
	int64_t		used;
	struct Order *next;
} Order;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Order *orders;
static int	norders;

/*
 * Appends {"contains": S, "answer": A, "times": N}.  A is a text, or an object
 * as faults have it.  A missing "contains" fits every prompt.
 */
bool
answers_add(const cJSON *list, char *why, size_t size)
{
	const cJSON *one = cJSON_IsArray(list) ? list->child : list;

	for (; one != NULL; one = cJSON_IsArray(list) ? one->next : NULL)
	{
		const cJSON *a = json_get(one, "answer");
		Order	  **end = &orders;
		Order	   *o;

		if (!cJSON_IsString(a) && !cJSON_IsObject(a))
		{
			snprintf(why, size, "\"answer\" must be a text or an object");
			return false;
		}
		o = xcalloc(sizeof(Order));
		o->contains = xstrdup(json_str(one, "contains") ? json_str(one, "contains") : "");
		o->times = (int64_t) json_num(one, "times", -1);
		if (cJSON_IsObject(a))
			o->answer = cJSON_Duplicate(a, 1);
		else
		{
			o->answer = cJSON_CreateObject();
			cJSON_AddStringToObject(o->answer, "content", a->valuestring);
		}
		pthread_mutex_lock(&lock);
		while (*end != NULL)
			end = &(*end)->next;
		*end = o;
		__atomic_add_fetch(&norders, 1, __ATOMIC_RELAXED);
		pthread_mutex_unlock(&lock);
	}
	return true;
}

/* What was ordered for this prompt, to be deleted, or NULL. */
cJSON *
answers_find(const char *prompt)
{
	cJSON	   *answer = NULL;

	if (__atomic_load_n(&norders, __ATOMIC_RELAXED) == 0)
		return NULL;
	pthread_mutex_lock(&lock);
	for (Order *o = orders; o != NULL; o = o->next)
	{
		if ((o->times >= 0 && o->used >= o->times) || strstr(prompt, o->contains) == NULL)
			continue;
		o->used++;
		answer = cJSON_Duplicate(o->answer, 1);
		break;
	}
	pthread_mutex_unlock(&lock);
	return answer;
}

void
answers_write(StrBuf *b)
{
	pthread_mutex_lock(&lock);
	buf_char(b, '[');
	for (Order *o = orders; o != NULL; o = o->next)
	{
		jw_key(b, NULL);
		buf_char(b, '{');
		jw_str(b, "contains", o->contains);
		jw_json(b, "answer", o->answer);
		jw_int(b, "used", o->used);
		buf_char(b, '}');
	}
	buf_char(b, ']');
	pthread_mutex_unlock(&lock);
}

void
answers_clear(void)
{
	pthread_mutex_lock(&lock);
	while (orders != NULL)
	{
		Order	   *o = orders;

		orders = o->next;
		free(o->contains);
		cJSON_Delete(o->answer);
		free(o);
	}
	__atomic_store_n(&norders, 0, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&lock);
}

/* What a prompt is about, while it is being answered. */
typedef struct Reading
{
	Facts		facts;
	bool		about_department;
	char	   *department;		/* NULL: the text does not say */
	const char *user;
	const char *missing;
} Reading;

/* The word that the prompt wants when nothing is found. */
static const char *
missing_word(const char *prompt)
{
	static const char *const words[] = {"MISSING", "UNKNOWN", "NONE", "N/A", "NULL", NULL};

	for (int i = 0; words[i] != NULL; i++)
	{
		if (strstr(prompt, words[i]) != NULL)
			return words[i];
	}
	return words[0];
}

static void
read_prompt(Reading *r, const char *all, const char *user)
{
	memset(r, 0, sizeof(*r));
	r->user = user;
	facts_read(user, &r->facts);
	r->about_department = find_nocase(all, "department") != NULL && r->facts.nfields > 0 &&
		(r->facts.ntext > 0 || r->facts.last != NULL || r->facts.id_text != NULL);
	if (r->about_department)
	{
		r->department = department_of(&r->facts);
		r->missing = missing_word(all);
	}
}

static char *
property_text(void *arg, const char *property, bool nullable)
{
	Reading    *r = arg;
	const char *v;

	if (r->about_department &&
		(find_nocase(property, "department") != NULL || find_nocase(property, "dept") != NULL ||
		 find_nocase(property, "answer") != NULL || find_nocase(property, "unit") != NULL))
	{
		if (r->department != NULL)
			return xstrdup(r->department);
		return nullable ? NULL : xstrdup(r->missing);
	}
	v = facts_value(&r->facts, property);
	return v ? xstrdup(v) : NULL;
}

/* The answer's text, to be freed. */
char *
answer_prompt(const char *all, const char *user, const cJSON *schema, bool json_mode)
{
	Reading		r;
	char	   *answer;

	read_prompt(&r, all, user);
	if (schema != NULL)
	{
		cJSON	   *o = schema_instance(schema, user, property_text, &r);

		answer = cJSON_PrintUnformatted(o);
		cJSON_Delete(o);
	}
	else if (json_mode)
	{
		cJSON	   *o = cJSON_CreateObject();
		char	   *words = first_words(user, 12, 200);

		cJSON_AddStringToObject(o, r.about_department ? "department" : "answer",
								!r.about_department ? words :
								r.department ? r.department : r.missing);
		answer = cJSON_PrintUnformatted(o);
		cJSON_Delete(o);
		free(words);
	}
	else if (r.about_department)
		answer = xstrdup(r.department ? r.department : r.missing);
	else
		answer = first_words(user, 12, 200);
	free(r.department);
	facts_free(&r.facts);
	return answer;
}
