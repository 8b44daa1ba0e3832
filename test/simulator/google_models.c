/*
 * google_models.c
 *		The Gemini models and how each of them can be told to think.
 *
 * Models of version 2.5 take a budget of tokens, those of version 3 a level,
 * and for compatibility a budget.  Names given by --model that begin with
 * "gemini" take either.
 */
#include "google_content.h"

#define E(x)	(1u << EFFORT_##x)
#define ALL		(E(MINIMAL) | E(LOW) | E(MEDIUM) | E(HIGH))
#define PRO		(E(LOW) | E(MEDIUM) | E(HIGH))

#define GEMINI(name, efforts, effort) {name, name, 1780272000, NULL, efforts, effort}

static const GModel known[] = {
	{GEMINI("gemini-3.8-flash", ALL, EFFORT_MEDIUM), "Gemini 3.8 Flash", 1, 24576, true, true},
	{GEMINI("gemini-3.5-flash", ALL, EFFORT_MEDIUM), "Gemini 3.5 Flash", 1, 24576, true, true},
	{GEMINI("gemini-3.5-flash-lite", ALL, EFFORT_MINIMAL), "Gemini 3.5 Flash-Lite", 1, 24576, true,
	true},
	{GEMINI("gemini-3.1-pro-preview", PRO, EFFORT_HIGH), "Gemini 3.1 Pro Preview", 128, 32768,
	false, true},
	{GEMINI("gemini-3.1-flash-lite", ALL, EFFORT_MINIMAL), "Gemini 3.1 Flash-Lite", 1, 24576, true,
	true},
	{GEMINI("gemini-2.5-pro", ALL, EFFORT_MEDIUM), "Gemini 2.5 Pro", 128, 32768, false, false},
	{GEMINI("gemini-2.5-flash", ALL, EFFORT_MEDIUM), "Gemini 2.5 Flash", 1, 24576, true, false},
	{GEMINI("gemini-2.5-flash-lite", ALL, EFFORT_MINIMAL), "Gemini 2.5 Flash-Lite", 512, 24576,
	true, false}
};

#define NKNOWN	((int) (sizeof(known) / sizeof(known[0])))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static GModel added[64];

/* NULL behind the last. */
const GModel *
gmodel_at(int i)
{
	int			n = NKNOWN;

	if (i < NKNOWN)
		return &known[i];
	for (int k = 0; k < sim_options.nmodels; k++)
	{
		if (strncmp(sim_options.models[k], "gemini", 6) != 0 || n++ != i)
			continue;
		pthread_mutex_lock(&lock);
		if (added[k].base.name == NULL)
		{
			added[k] = known[1];
			added[k].title = added[k].base.snapshot = sim_options.models[k];
			added[k].base.name = sim_options.models[k];
		}
		pthread_mutex_unlock(&lock);
		return &added[k];
	}
	return NULL;
}

const GModel *
gmodel_find(const char *name)
{
	const GModel *m;

	for (int i = 0; (m = gmodel_at(i)) != NULL; i++)
	{
		if (strcmp(m->base.name, name) == 0)
			return m;
	}
	return NULL;
}
