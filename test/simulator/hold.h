/*
 * hold.h
 *		Requests that stand still until a test lets them go.
 */
#ifndef HOLD_H
#define HOLD_H

#include "http.h"

typedef enum HoldAt
{
	HOLD_REQUEST_BODY,			/* so many bytes of the body were read */
	HOLD_ARRIVAL,				/* it is here, nothing was done */
	HOLD_REPLY,					/* everything was done, nothing was said */
	HOLD_RESPONSE_BODY			/* so many bytes of the reply were sent */
} HoldAt;

extern const char *hold_at_name(HoldAt at);
extern void hold_request(Request *req, HoldAt at);
extern bool hold_release(const cJSON *json, StrBuf *out, char *why, size_t size);
extern void hold_write(StrBuf *b);
extern void hold_stop(void);

#endif							/* HOLD_H */
