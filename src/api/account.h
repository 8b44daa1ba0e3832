/*-------------------------------------------------------------------------
 *
 * account.h
 *		Accounts for functions that tell what is wrong instead of raising it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_API_ACCOUNT_H
#define DESS_API_ACCOUNT_H

#include "provider/provider.h"

/*
 * account_load(), but NULL with *why set, in sentences, where that raises.
 * Cancelling and the like are raised all the same.
 */
extern Account *account_try_load(Oid server, const char *provider, Oid role, char **why);

#endif							/* DESS_API_ACCOUNT_H */
