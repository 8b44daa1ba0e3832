/*
 * models.c
 *		The models of the OpenAI provider.
 *
 * Which efforts a model takes and what it does without one follows the public
 * model pages; names given by --model behave like a model without reasoning,
 * unless they look like one of the families.
 */
#include "openai.h"

#define E(x)		(1u << EFFORT_##x)
#define O_SERIES	(E(LOW) | E(MEDIUM) | E(HIGH))
#define GPT_5		(E(MINIMAL) | O_SERIES)
#define GPT_5_1		(E(NONE) | O_SERIES)
#define GPT_5_2		(GPT_5_1 | E(XHIGH))
#define GPT_6		(GPT_5_2 | E(MAX))

static const Model known[] = {
	{"gpt-6-astra", "gpt-6-astra", 1788220800, NULL, GPT_6, EFFORT_MEDIUM},
	{"gpt-6-sol", "gpt-6-sol", 1788220800, NULL, GPT_6, EFFORT_MEDIUM},
	{"gpt-6-luna", "gpt-6-luna", 1788220800, NULL, GPT_6, EFFORT_NONE},
	{"gpt-6.1-sol", "gpt-6.1-sol", 1792108800, NULL, GPT_6, EFFORT_MEDIUM},
	{"gpt-6.1-terra", "gpt-6.1-terra", 1792108800, NULL, GPT_6, EFFORT_NONE},
	{"gpt-5.6-sol", "gpt-5.6-sol", 1780272000, NULL, GPT_5_2, EFFORT_MEDIUM},
	{"gpt-5.6-terra", "gpt-5.6-terra", 1780272000, NULL, GPT_5_2, EFFORT_MEDIUM},
	{"gpt-5.6-luna", "gpt-5.6-luna", 1780272000, NULL, GPT_5_2, EFFORT_NONE},
	{"gpt-5.5", "gpt-5.5-2026-04-23", 1776902400, NULL, GPT_5_2, EFFORT_MEDIUM},
	{"gpt-5.4", "gpt-5.4-2026-03-05", 1772668800, NULL, GPT_5_2, EFFORT_NONE},
	{"gpt-5.4-mini", "gpt-5.4-mini-2026-03-17", 1773705600, NULL, GPT_5_2, EFFORT_NONE},
	{"gpt-5.4-nano", "gpt-5.4-nano-2026-03-17", 1773705600, NULL, GPT_5_2, EFFORT_NONE},
	{"gpt-5.1", "gpt-5.1-2025-11-13", 1762992000, "2027-04-01", GPT_5_1, EFFORT_NONE},
	{"gpt-5", "gpt-5-2025-08-07", 1754524800, "2026-12-11", GPT_5, EFFORT_MEDIUM},
	{"gpt-5-mini", "gpt-5-mini-2025-08-07", 1754524800, "2026-12-11", GPT_5, EFFORT_MEDIUM},
	{"gpt-5-nano", "gpt-5-nano-2025-08-07", 1754524800, "2026-12-11", GPT_5, EFFORT_MEDIUM},
	{"o3", "o3-2025-04-16", 1744761600, "2026-12-11", O_SERIES, EFFORT_MEDIUM},
	{"gpt-4.1", "gpt-4.1-2025-04-14", 1744588800, "2027-01-14", 0, EFFORT_NONE},
	{"gpt-4.1-mini", "gpt-4.1-mini-2025-04-14", 1744588800, "2027-01-14", 0, EFFORT_NONE},
	{"gpt-4o", "gpt-4o-2024-08-06", 1722902400, "2027-01-14", 0, EFFORT_NONE},
	{"gpt-4o-mini", "gpt-4o-mini-2024-07-18", 1721260800, "2027-01-14", 0, EFFORT_NONE}
};

#define NKNOWN	((int) (sizeof(known) / sizeof(known[0])))

static const char *const effort_names[EFFORTS] = {
	"none", "minimal", "low", "medium", "high", "xhigh", "max"
};

static Model added[64];

const char *
effort_name(Effort e)
{
	return effort_names[e];
}

int
effort_find(const char *name)
{
	for (int i = 0; i < EFFORTS; i++)
	{
		if (strcmp(effort_names[i], name) == 0)
			return i;
	}
	return -1;
}

static const Model *
model_at(int i)
{
	Model	   *m;

	if (i < NKNOWN)
		return &known[i];
	if (i >= NKNOWN + sim_options.nmodels)
		return NULL;
	m = &added[i - NKNOWN];
	if (m->name == NULL)
	{
		const char *name = sim_options.models[i - NKNOWN];

		m->snapshot = name;
		m->created = 1760000000;
		if (name[0] == 'o' && name[1] >= '1' && name[1] <= '9')
			m->efforts = O_SERIES, m->effort = EFFORT_MEDIUM;
		else if (strncmp(name, "gpt-5.", 6) == 0 || strncmp(name, "gpt-6", 5) == 0)
			m->efforts = GPT_5_2, m->effort = EFFORT_NONE;
		m->name = name;
	}
	return m;
}

/* By name or by the name of its snapshot. */
const Model *
model_find(const char *name)
{
	const Model *m;

	for (int i = 0; (m = model_at(i)) != NULL; i++)
	{
		if (strcmp(m->name, name) == 0 || strcmp(m->snapshot, name) == 0)
			return m;
	}
	return NULL;
}

static void
model_write(StrBuf *b, const Model *m, const char *name)
{
	jw_key(b, NULL);
	buf_char(b, '{');
	jw_str(b, "id", name);
	jw_str(b, "object", "model");
	jw_int(b, "created", m->created);
	jw_str(b, "owned_by", "system");
	jw_str(b, "shutdown_date", m->shutdown);
	buf_char(b, '}');
}

void
models_list(Reply *reply)
{
	StrBuf	   *b = &reply->body;
	const Model *m;

	reply->status = 200;
	buf_char(b, '{');
	jw_str(b, "object", "list");
	jw_key(b, "data");
	buf_char(b, '[');
	for (int i = 0; (m = model_at(i)) != NULL; i++)
	{
		model_write(b, m, m->name);
		if (strcmp(m->name, m->snapshot) != 0)
			model_write(b, m, m->snapshot);
	}
	buf_str(b, "]}");
}

void
models_get(const char *name, Reply *reply)
{
	const Model *m = model_find(name);
	ApiError	e;

	if (m != NULL)
	{
		reply->status = 200;
		model_write(&reply->body, m, name);
		return;
	}
	api_error(&e, 404, "model_not_found", "model", "The model '%s' does not exist", name);
	reply_error(reply, &e);
}
