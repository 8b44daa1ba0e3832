/*-------------------------------------------------------------------------
 *
 * reply_stubs.h
 *		Replies of an HTTP server that is not there.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_REPLY_STUBS_H
#define DESS_REPLY_STUBS_H

#include "http/http.h"

extern HttpReply *stub_reply(int status, const char *body);
extern HttpReply *stub_failure(HttpFailure failure, const char *message);

/* Adds a header to the reply that was made last, which is the one that has any. */
extern void stub_header(const char *name, const char *value);

#endif							/* DESS_REPLY_STUBS_H */
