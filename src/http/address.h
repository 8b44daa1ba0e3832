/*-------------------------------------------------------------------------
 *
 * address.h
 *		Which addresses a request may go to, and through which proxy.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_HTTP_ADDRESS_H
#define DESS_HTTP_ADDRESS_H

#include <sys/socket.h>

#include "http/http.h"

/* Loopback, link-local, unspecified, a cloud's metadata server, or of no internet family.  Callable from libcurl's callbacks. */
extern bool address_is_local(const struct sockaddr *address);
extern bool address_text_is_local(const char *text);

/* The proxy that the request takes, "" for none: the request's own or the environment's string. */
extern const char *address_choose_proxy(const HttpRequest *request);

#endif							/* DESS_HTTP_ADDRESS_H */
