/*
 * providers.h
 *		The providers that http.c knows.
 */
#ifndef PROVIDERS_H
#define PROVIDERS_H

#include "http.h"

extern const Provider control_provider;
extern const Provider openai_provider;

extern void openai_start(void);
extern void openai_stop(void);
extern void openai_reset(void);
extern void openai_stats(StrBuf *b);

#endif							/* PROVIDERS_H */
