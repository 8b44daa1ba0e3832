/*-------------------------------------------------------------------------
 *
 * guc.c
 *		Settings and their check hooks, and the pinning of others' settings.
 *
 * Every setting is PGC_SIGHUP: what the worker may reach is the business of
 * whoever runs the server, not of a session.
 *
 * The lists (databases, allowed_hosts) are not folded to lower case like
 * identifiers: a database name means what it says, and hosts are compared
 * without case anyway.  Commas separate, double quotes protect.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/varlena.h"

#include "runtime/compat.h"
#include "runtime/guc.h"

/* What spool file names may add to the directory. */
#define SPOOL_NAME_ROOM		128

bool		dess_enabled = true;
char	   *dess_databases = NULL;
int			dess_idle_timeout = 60 * 1000;
char	   *dess_spool_directory = NULL;
int			dess_spool_limit = 10 * 1024;
int			dess_job_retention = 30 * 24 * 60;
char	   *dess_allowed_hosts = NULL;

/* Splits a copy of value into list items; false when the syntax is wrong. */
static bool
split_list(const char *value, List **items)
{
	return SplitGUCList(pstrdup(value), ',', items);
}

static bool
check_databases(char **newval, void **extra, GucSource source)
{
	List	   *items;

	if (split_list(*newval, &items))
		return true;

	GUC_check_errdetail("List syntax is invalid.");
	return false;
}

static bool
check_allowed_hosts(char **newval, void **extra, GucSource source)
{
	List	   *items;
	ListCell   *lc;

	if (!split_list(*newval, &items))
	{
		GUC_check_errdetail("List syntax is invalid.");
		return false;
	}

	foreach(lc, items)
	{
		const char *host = lfirst(lc);

		if (host[0] == '\0' ||
			host[strspn(host, "abcdefghijklmnopqrstuvwxyz"
						"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:*")] != '\0')
		{
			GUC_check_errdetail("\"%s\" is not a host name, an address or \"*\".", host);
			GUC_check_errhint("Give host names without scheme, port and path, for example \"api.openai.com, *.googleapis.com\".");
			return false;
		}
	}
	return true;
}

static bool
check_spool_directory(char **newval, void **extra, GucSource source)
{
	if ((*newval)[0] == '\0')
		return true;

	if (!is_absolute_path(*newval))
	{
		GUC_check_errdetail("The directory must be given by an absolute path, or be empty.");
		return false;
	}
	if (strlen(*newval) > MAXPGPATH - SPOOL_NAME_ROOM)
	{
		GUC_check_errdetail("The path is too long.");
		return false;
	}
	return true;
}

/* When and where workers work. */
static void
define_worker_settings(void)
{
	DefineCustomBoolVariable("dess_batch.enabled",
							 "Lets workers touch the network and tables.",
							 NULL,
							 &dess_enabled,
							 true,
							 PGC_SIGHUP, 0,
							 NULL, NULL, NULL);

	DefineCustomStringVariable("dess_batch.databases",
							   "Databases the launcher looks at.",
							   "A comma-separated list of names, or * for all of them.",
							   &dess_databases,
							   "*",
							   PGC_SIGHUP, GUC_LIST_INPUT,
							   check_databases, NULL, NULL);

	DefineCustomIntVariable("dess_batch.idle_timeout",
							"Time after which a worker without work exits.",
							NULL,
							&dess_idle_timeout,
							60 * 1000, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("dess_batch.job_retention",
							"Time after which finished jobs are forgotten.",
							NULL,
							&dess_job_retention,
							30 * 24 * 60, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MIN,
							NULL, NULL, NULL);
}

/* What they may take and reach. */
static void
define_limit_settings(void)
{
	DefineCustomStringVariable("dess_batch.spool_directory",
							   "Directory of request and result files while they travel.",
							   "An empty value means a directory inside the data directory.",
							   &dess_spool_directory,
							   "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   check_spool_directory, NULL, NULL);

	DefineCustomIntVariable("dess_batch.spool_limit",
							"Space that request and result files may take.",
							NULL,
							&dess_spool_limit,
							10 * 1024, 1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MB,
							NULL, NULL, NULL);

	DefineCustomStringVariable("dess_batch.allowed_hosts",
							   "Hosts that the addresses of servers may name.",
							   "A comma-separated list of host names, in which * stands for any characters.",
							   &dess_allowed_hosts,
							   "*",
							   PGC_SIGHUP, GUC_LIST_INPUT,
							   check_allowed_hosts, NULL, NULL);
}

/* Defines the settings; called once by _PG_init. */
void
guc_init(void)
{
	define_worker_settings();
	define_limit_settings();
	MarkGUCPrefixReserved("dess_batch");
}

/* Matches a pattern with any number of "*" against a host; ASCII case is ignored. */
static bool
host_matches(const char *pattern, const char *host)
{
	const char *star = NULL;
	const char *retry = NULL;

	while (*host != '\0')
	{
		if (*pattern == '*')
		{
			star = ++pattern;
			retry = host;
		}
		else if (pg_ascii_tolower((unsigned char) *pattern) ==
				 pg_ascii_tolower((unsigned char) *host))
		{
			pattern++;
			host++;
		}
		else if (star != NULL)
		{
			pattern = star;
			host = ++retry;
		}
		else
			return false;
	}
	return pattern[strspn(pattern, "*")] == '\0';
}

/* Does an item of a checked list match name?  Leaves no memory behind. */
static bool
list_names(const char *setting, bool (*matches) (const char *item, const char *name),
		   const char *name)
{
	char	   *copy = pstrdup(setting);
	List	   *items = NIL;
	ListCell   *lc;
	bool		found = false;

	if (SplitGUCList(copy, ',', &items))
	{
		foreach(lc, items)
			found = found || matches(lfirst(lc), name);
	}
	list_free(items);
	pfree(copy);
	return found;
}

static bool
database_matches(const char *item, const char *database)
{
	return strcmp(item, "*") == 0 || strcmp(item, database) == 0;
}

bool
guc_database_listed(const char *database)
{
	return list_names(dess_databases, database_matches, database);
}

bool
guc_host_allowed(const char *host)
{
	return list_names(dess_allowed_hosts, host_matches, host);
}

/*
 * Everything on which input and output of values depend, so that a value has
 * the same text, and the same request the same hash, in every session.  YMD
 * leaves dates like 03/04/2024 unread instead of guessing.
 */
static const char *const pinned_settings[][2] = {
	{"search_path", "pg_catalog, pg_temp"},
	{"datestyle", "ISO, YMD"},
	{"intervalstyle", "postgres"},
	{"timezone", "UTC"},
	{"extra_float_digits", "1"},
	{"bytea_output", "hex"},
	{"lc_monetary", "C"},
	{"xmloption", "content"},
	{"xmlbinary", "base64"},
	{"array_nulls", "on"},
	{"quote_all_identifiers", "off"},
	{"standard_conforming_strings", "on"},
	{"transform_null_equals", "off"},
	{"row_security", "on"}
};

/* Returns the nest level for guc_unpin().  Any role may call it; needs a transaction. */
int
guc_pin_output(void)
{
	int			nestlevel = NewGUCNestLevel();
	int			i;

	for (i = 0; i < lengthof(pinned_settings); i++)
		(void) set_config_option(pinned_settings[i][0], pinned_settings[i][1],
								 PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	return nestlevel;
}

/* Gives the settings back, with whatever was set inside since. */
void
guc_unpin(int nestlevel)
{
	AtEOXact_GUC(false, nestlevel);
}
