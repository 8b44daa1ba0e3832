/*
 * vertex.h
 *		What the files of the Vertex AI provider share.
 */
#ifndef VERTEX_H
#define VERTEX_H

#include "google_job.h"

extern bool gs_split(const char *uri, char **bucket, char **name);
extern bool vertex_model(const char *name, const GModel **model, GError *e);
extern void vertex_create(Request *req, Reply *reply, const char *location);
extern void vertex_list(Request *req, Reply *reply, const char *location);
extern void vertex_one(Request *req, Reply *reply, const char *location, char *id);
extern bool filter_match(const Job *job, const char *filter, GError *e);

#endif							/* VERTEX_H */
