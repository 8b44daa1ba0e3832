/*-------------------------------------------------------------------------
 *
 * account.c
 *		Accounts for functions that tell what is wrong instead of raising it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "account/account.h"
#include "api/account.h"
#include "runtime/txn.h"

typedef struct AccountWanted
{
	Oid			server;
	const char *provider;
	Oid			role;
	Account    *account;
} AccountWanted;

static void
load_wanted(void *arg)
{
	AccountWanted *wanted = arg;

	wanted->account = account_load(wanted->server, wanted->provider, wanted->role);
}

Account *
account_try_load(Oid server, const char *provider, Oid role, char **why)
{
	AccountWanted wanted = {server, provider, role, NULL};

	return txn_try(load_wanted, &wanted, why) ? wanted.account : NULL;
}
