/*-------------------------------------------------------------------------
 *
 * internal.h
 *		What the registry offers to the list of built-in providers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_PROVIDER_INTERNAL_H
#define DESS_PROVIDER_INTERNAL_H

#include "provider/provider.h"

/* Copies the struct.  Raises 22023 if it is not complete, 42710 if its name is taken. */
extern void provider_register(const BatchProvider *provider);

/* Other modules find the registry from now on. */
extern void provider_publish(void);

#endif							/* DESS_PROVIDER_INTERNAL_H */
