/*
 * providers.h
 *		The providers that http.c knows.
 */
#ifndef PROVIDERS_H
#define PROVIDERS_H

#include "http.h"

extern const Provider control_provider;
extern const Provider openai_provider;
extern const Provider google_auth_provider;
extern const Provider google_metadata_provider;
extern const Provider storage_provider;
extern const Provider vertex_provider;
extern const Provider gemini_provider;

extern void openai_start(void);
extern void openai_stop(void);
extern void openai_reset(void);
extern void openai_stats(StrBuf *b);

extern void google_start(void);
extern void google_write_files(void);
extern void google_stop(void);
extern void google_reset(void);
extern void google_stats(StrBuf *b);
extern void google_tokens(StrBuf *b);
extern bool google_revoke(const cJSON *json, char *why, size_t size);

#endif							/* PROVIDERS_H */
