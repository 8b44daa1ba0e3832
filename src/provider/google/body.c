/*-------------------------------------------------------------------------
 *
 * body.c
 *		Request lines for Gemini models, on Vertex AI and the Gemini API.
 *
 * All lines of a job are equal but for the key and the prompt, so the text
 * before and after the prompt is written once.
 *
 * How a model is told to think less is decided by its name: generation 2.5 has
 * a budget, later ones have levels, and a request that names the wrong one of
 * the two is refused.  Nothing is said to a model whose name does not tell.
 *
 * Members of "extra" go into the request as they are, those of its
 * generationConfig into ours; a name counts as the same in the two spellings
 * that Google takes, lowerCamelCase and snake_case.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif

#include "provider/body.h"
#include "provider/google/google.h"
#include "text/json.h"

typedef enum Thinking
{
	THINKING_UNKNOWN,			/* the name does not tell */
	THINKING_NEVER,
	THINKING_BUDGET,
	THINKING_LEVEL
} Thinking;

typedef struct ModelFacts
{
	Thinking	thinking;
	int			major;
	int			minor;
	bool		pro;			/* cannot be kept from thinking */
} ModelFacts;

/* An effort, as a budget and as a level. */
typedef struct Effort
{
	const char *word;
	int			budget;
	const char *level;
} Effort;

static const Effort efforts[] = {
	{"none", 0, NULL},
	{"minimal", 512, "MINIMAL"},
	{"low", 1024, "LOW"},
	{"medium", 8192, "MEDIUM"},
	{"high", 24576, "HIGH"},
};

/* the least that a "pro" of generation 2.5 takes */
#define PRO_LEAST_BUDGET	128

const char *
gemini_base_name(const char *model)
{
	const char *slash = strrchr(model, '/');

	return slash ? slash + 1 : model;
}

/* What the name tells, such as "gemini-2.5-flash-lite" or "publishers/google/models/gemini-3.1-pro". */
static ModelFacts
model_facts(const char *model)
{
	static const char *const thoughtless[] = {"-image", "-tts", "-audio", "-embedding", "-live"};
	const char *name = gemini_base_name(model);
	ModelFacts	facts = {THINKING_UNKNOWN, 0, 0, false};
	const char *rest;

	if (strncmp(name, "gemini-", 7) != 0 || strspn(name + 7, "0123456789") != 1)
		return facts;
	facts.major = name[7] - '0';
	rest = name + 8;
	if (*rest == '.' && strspn(rest + 1, "0123456789") == 1)
	{
		facts.minor = rest[1] - '0';
		rest += 2;
	}
	facts.pro = (strncmp(rest, "-pro", 4) == 0);
	for (int i = 0; i < lengthof(thoughtless); i++)
	{
		if (strstr(rest, thoughtless[i]) != NULL)
			return facts;
	}
	if (facts.major >= 3)
		facts.thinking = THINKING_LEVEL;
	else if (facts.major == 2 && facts.minor == 5)
		facts.thinking = THINKING_BUDGET;
	else if (strstr(rest, "thinking") == NULL)
		facts.thinking = THINKING_NEVER;
	return facts;
}

/* Does the model know the level?  The small ones know all four. */
static bool
knows_level(const ModelFacts *facts, const char *level)
{
	if (!facts->pro || facts->thinking == THINKING_UNKNOWN)
		return true;
	if (strcmp(level, "MINIMAL") == 0)
		return false;
	return strcmp(level, "MEDIUM") != 0 || facts->major > 3 || facts->minor > 0;
}

/*
 * The budget (-1: none) and level (NULL: none) for what the user asked, or for
 * the built-in prompt.  NULL, or why that cannot be, palloc'd.
 */
static char *
choose_thinking(const BatchOptions *options, int *budget, const char **level)
{
	ModelFacts	facts = model_facts(options->model);
	const char *word = options->parameters.reasoning_effort;
	const Effort *effort = NULL;

	*budget = -1;
	*level = NULL;
	if (word == NULL)
	{
		if (options->department && facts.thinking == THINKING_BUDGET)
			*budget = facts.pro ? PRO_LEAST_BUDGET : 0;
		if (options->department && facts.thinking == THINKING_LEVEL)
			*level = knows_level(&facts, "MINIMAL") ? "MINIMAL" : "LOW";
		return NULL;
	}

	for (int i = 0; i < lengthof(efforts); i++)
	{
		if (strcmp(word, efforts[i].word) == 0)
			effort = &efforts[i];
	}
	if (effort == NULL)
		return psprintf("parameter \"reasoning_effort\" must be none, minimal, low, medium or high for Gemini models, not \"%s\"", word);
	switch (facts.thinking)
	{
		case THINKING_NEVER:
			if (effort->level != NULL)
				return psprintf("parameter \"reasoning_effort\" must be none for model \"%s\", which does not think before it answers", options->model);
			return NULL;
		case THINKING_BUDGET:
			if (effort->level == NULL && facts.pro)
				return psprintf("parameter \"reasoning_effort\" must not be none for model \"%s\": the least is minimal", options->model);
			*budget = (facts.pro && strcmp(word, "minimal") == 0) ? PRO_LEAST_BUDGET : effort->budget;
			return NULL;
		case THINKING_UNKNOWN:
			if (effort->level == NULL)
			{
				*budget = effort->budget;
				return NULL;
			}
			break;
		case THINKING_LEVEL:
			break;
	}
	if (effort->level == NULL)
		return psprintf("parameter \"reasoning_effort\" must not be none for model \"%s\": the least is %s",
						options->model, knows_level(&facts, "MINIMAL") ? "minimal" : "low");
	if (!knows_level(&facts, effort->level))
		return psprintf("parameter \"reasoning_effort\" must not be %s for model \"%s\": it knows %s",
						word, options->model, knows_level(&facts, "MEDIUM") ? "low, medium and high" : "low and high");
	*level = effort->level;
	return NULL;
}

/* Is this name, in either spelling, the camel-case one? */
static bool
same_name(const char *name, const char *camel)
{
	for (; *name != '\0'; name++)
	{
		if (*name == '_')
			continue;
		if (pg_ascii_tolower((unsigned char) *name) != pg_ascii_tolower((unsigned char) *camel))
			return false;
		camel++;
	}
	return *camel == '\0';
}

/* The member of that name, in either spelling, or NULL. */
static JsonValue *
find_name(JsonValue *object, const char *camel)
{
	if (!json_is_object(object))
		return NULL;
	for (JsonValue *member = json_first(object); member != NULL; member = json_next(member))
	{
		if (same_name(json_name(member), camel))
			return member;
	}
	return NULL;
}

/* ---- writing ---- */

/* The members of an object, each behind a comma but for the first. */
typedef struct Members
{
	StringInfo	out;
	JsonValue  *theirs;			/* what stands here is not written by us */
	int			count;
} Members;

/* Begins a member; false if the user wrote it himself. */
static bool
begin_member(Members *members, const char *name)
{
	if (find_name(members->theirs, name) != NULL)
		return false;
	appendStringInfo(members->out, "%s\"%s\":", members->count++ > 0 ? "," : "", name);
	return true;
}

static void
write_number(Members *members, const char *name, const char *number)
{
	if (number != NULL && begin_member(members, name))
		body_append_json(members->out, number, strlen(number));
}

static void
write_thinking(Members *members, const BatchOptions *options)
{
	int			budget;
	const char *level;

	if (choose_thinking(options, &budget, &level) != NULL || (budget < 0 && level == NULL))
		return;
	if (!begin_member(members, "thinkingConfig"))
		return;
	if (level != NULL)
		appendStringInfo(members->out, "{\"thinkingLevel\":\"%s\"}", level);
	else
		appendStringInfo(members->out, "{\"thinkingBudget\":%d}", budget);
}

/* The members of generationConfig; returns how many there are. */
static int
write_config(StringInfo out, const BatchOptions *options, JsonValue *theirs)
{
	const BatchParameters *parameters = &options->parameters;
	Members		members = {out, theirs, 0};

	write_number(&members, "temperature", parameters->temperature);
	write_number(&members, "topP", parameters->top_p);
	if (parameters->max_output_tokens > 0)
		write_number(&members, "maxOutputTokens", psprintf(INT64_FORMAT, parameters->max_output_tokens));
	write_number(&members, "seed", parameters->seed);
	write_thinking(&members, options);
	if (options->schema != NULL)
	{
		if (begin_member(&members, "responseMimeType"))
			appendStringInfoString(out, "\"application/json\"");
		if (begin_member(&members, "responseSchema"))
			gemini_write_schema(out, options->schema);
	}
	for (JsonValue *member = json_first(theirs); member != NULL; member = json_next(member))
	{
		appendStringInfoString(out, members.count++ > 0 ? "," : "");
		json_append_cstring(out, json_name(member));
		appendStringInfoChar(out, ':');
		json_append_value(out, member);
	}
	return members.count;
}

/* What stands in a line behind the prompt. */
static char *
write_tail(const BatchOptions *options)
{
	JsonDoc    *doc;
	JsonValue  *extra = body_open_extra(options, &doc);
	JsonValue  *their_config = find_name(extra, "generationConfig");
	StringInfoData tail;
	StringInfoData config;

	initStringInfo(&tail);
	initStringInfo(&config);
	appendStringInfoString(&tail, "}]}]");
	if (options->system != NULL && find_name(extra, "systemInstruction") == NULL)
	{
		appendStringInfoString(&tail, ",\"systemInstruction\":{\"parts\":[{\"text\":");
		body_append_text(&tail, options->system_json, options->system);
		appendStringInfoString(&tail, "}]}");
	}
	if (write_config(&config, options, their_config) > 0)
		appendStringInfo(&tail, ",\"generationConfig\":{%s}", config.data);
	for (JsonValue *member = json_first(extra); member != NULL; member = json_next(member))
	{
		if (member == their_config)
			continue;
		appendStringInfoChar(&tail, ',');
		json_append_cstring(&tail, json_name(member));
		appendStringInfoChar(&tail, ':');
		json_append_value(&tail, member);
	}
	appendStringInfoString(&tail, "}}\n");
	json_free(doc);
	return tail.data;
}

#define LINE_HEAD	"\"request\":{\"contents\":[{\"role\":\"user\",\"parts\":[{\"text\":"

void
gemini_prepare_options(BatchOptions *options)
{
	options->line_head = pstrdup(LINE_HEAD);
	options->line_tail = write_tail(options);
}

static void
write_rest(StringInfo line, const BatchItem *item, const BatchOptions *options)
{
	appendStringInfoString(line, LINE_HEAD);
	json_append_string(line, item->text, item->text_length);
	appendStringInfoString(line, options->line_tail ? options->line_tail : write_tail(options));
}

void
gemini_write_keyed_line(StringInfo line, const BatchItem *item, const BatchOptions *options)
{
	appendStringInfo(line, "{\"key\":\"%s\",", item->custom_id);
	write_rest(line, item, options);
}

void
gemini_write_bare_line(StringInfo line, const BatchItem *item, const BatchOptions *options)
{
	appendStringInfoChar(line, '{');
	write_rest(line, item, options);
}

bool
gemini_split_line(const char *line, size_t length, const char **body, size_t *body_length)
{
	static const char request[] = "\"request\":";
	size_t		start = 1;

	while (length > 0 && (line[length - 1] == '\n' || line[length - 1] == '\r'))
		length--;
	if (length < 2 || line[0] != '{' || line[length - 1] != '}')
		return false;
	if (length > 8 && memcmp(line, "{\"key\":\"", 8) == 0)
	{
		const char *quote = memchr(line + 8, '"', length - 8);

		if (quote == NULL || quote[1] != ',')
			return false;
		start = quote + 2 - line;
	}
	if (length < start + sizeof(request) || memcmp(line + start, request, sizeof(request) - 1) != 0)
		return false;
	*body = line + start + sizeof(request) - 1;
	*body_length = line + length - 1 - *body;
	return *body_length >= 2 && (*body)[0] == '{';
}

/* ---- checks ---- */

static char *
check_parameters(const BatchOptions *options)
{
	const BatchParameters *parameters = &options->parameters;
	char	   *result = body_check_sampling(parameters);
	int			budget;
	const char *level;

	if (result != NULL)
		return result;
	if (parameters->seed != NULL &&
		(!body_is_integer(parameters->seed) || !body_is_number(parameters->seed, PG_INT32_MIN, PG_INT32_MAX)))
		return psprintf("parameter \"seed\" must be a 32-bit integer for Gemini models, not \"%s\"", parameters->seed);
	if (parameters->max_output_tokens < 0 || parameters->max_output_tokens > PG_INT32_MAX)
		return pstrdup("parameter \"max_output_tokens\" must be a positive 32-bit integer for Gemini models");
	return choose_thinking(options, &budget, &level);
}

static char *
check_schema(const BatchOptions *options)
{
	StringInfoData unused;

	initStringInfo(&unused);
	return gemini_write_schema(&unused, options->schema);
}

/* Extra members may replace what we write, but not what makes a line a request for one row. */
static char *
check_extra(const BatchOptions *options)
{
	static const char *const of_schema[] = {"responseSchema", "responseJsonSchema", "responseMimeType"};
	const char *why;
	const char *text = options->parameters.extra;
	JsonDoc    *doc = json_parse(text, strlen(text), &why);
	JsonValue  *extra;
	JsonValue  *config;
	char	   *result = NULL;

	if (doc == NULL)
		return psprintf("parameter \"extra\" is not JSON: %s", why);
	extra = json_root(doc);
	config = find_name(extra, "generationConfig");
	if (!json_is_object(extra))
		result = pstrdup("parameter \"extra\" must be a JSON object");
	else if (find_name(extra, "contents") != NULL || find_name(extra, "model") != NULL)
		result = pstrdup("parameter \"extra\" must not contain \"contents\" or \"model\"");
	else if (config != NULL && !json_is_object(config))
		result = pstrdup("parameter \"extra\" has a \"generationConfig\" that is not an object");
	for (int i = 0; i < lengthof(of_schema) && result == NULL; i++)
	{
		if (options->schema != NULL && find_name(config, of_schema[i]) != NULL)
			result = psprintf("parameter \"extra\" must not contain \"%s\" beside response_schema", of_schema[i]);
	}
	json_free(doc);
	return result;
}

/* NULL if all is well, else words that name the culprit, palloc'd. */
char *
gemini_check_options(const BatchOptions *options)
{
	char	   *result = check_parameters(options);

	if (result == NULL && options->schema != NULL)
		result = check_schema(options);
	if (result == NULL && options->parameters.extra != NULL)
		result = check_extra(options);
	return result;
}
