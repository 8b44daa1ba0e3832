/*
 * schema.h
 *		JSON Schema: what strict mode accepts, and instances of a schema.
 */
#ifndef SCHEMA_H
#define SCHEMA_H

#include "sim.h"

/*
 * Text for a string property, to be freed, or NULL when nothing is known about
 * it: then null is taken if the schema allows it.
 */
typedef char *(*SchemaText) (void *arg, const char *property, bool nullable);

extern bool schema_strict(const cJSON *schema, char *why, size_t size);
extern cJSON *schema_instance(const cJSON *schema, const char *text, SchemaText fn, void *arg);

#endif							/* SCHEMA_H */
