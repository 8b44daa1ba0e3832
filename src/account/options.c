/*-------------------------------------------------------------------------
 *
 * options.c
 *		The options of servers and user mappings: dess_batch_validator.
 *
 * PostgreSQL hands the validator the list as it will be after the command, but
 * neither the object nor the list of before.  Two rules need these and live in
 * an object access hook, which is there whenever the validator was called:
 * nobody but a superuser alters a server that has superuser-only options (not
 * even to drop them), and a mapping has the option of its server's provider.
 *
 * Secrets are never quoted, and the statement that carried one is kept out of
 * the log.  Addresses are not quoted either: a password may stand in them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/table.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "account/account.h"
#include "runtime/compat.h"
#include "text/json.h"

typedef enum OptionKind
{
	OPTION_PROVIDER,
	OPTION_MODELS,				/* comma-separated globs */
	OPTION_ADDRESS,				/* base address of an API */
	OPTION_VARIABLE,			/* name of an environment variable */
	OPTION_PATH,				/* absolute path of a file */
	OPTION_PROXY,
	OPTION_COUNT,				/* whole number from 1 to max */
	OPTION_MONEY				/* US dollars */
} OptionKind;

/* An option that servers of every provider have. */
typedef struct ServerOption
{
	const char *name;
	OptionKind	kind;
	bool		superuser_only;
	int64		max;			/* for OPTION_COUNT */
} ServerOption;

static const ServerOption server_options[] = {
	{"provider", OPTION_PROVIDER, false, 0},
	{"models", OPTION_MODELS, false, 0},
	{"base_url", OPTION_ADDRESS, false, 0},
	{"api_key_env", OPTION_VARIABLE, true, 0},
	{"api_key_file", OPTION_PATH, true, 0},
	{"ca_file", OPTION_PATH, true, 0},
	{"proxy", OPTION_PROXY, true, 0},
	{"max_concurrency", OPTION_COUNT, false, 10000},
	{"requests_per_minute", OPTION_COUNT, false, INT_MAX},
	{"tokens_per_minute", OPTION_COUNT, false, PG_INT64_MAX},
	{"max_batch_requests", OPTION_COUNT, false, INT_MAX},
	{"max_batch_bytes", OPTION_COUNT, false, PG_INT64_MAX},
	{"max_active_batches", OPTION_COUNT, false, 10000},
	{"max_enqueued_tokens", OPTION_COUNT, false, PG_INT64_MAX},
	{"max_cost_per_day", OPTION_MONEY, false, 0},
	{"max_cost_per_month", OPTION_MONEY, false, 0},
	{"poll_interval", OPTION_COUNT, false, SECS_PER_DAY},
	{"request_timeout", OPTION_COUNT, false, SECS_PER_DAY}
};

/* Bytes of a user's text that a message quotes. */
#define QUOTED_LENGTH	200

static object_access_hook_type previous_object_access_hook = NULL;

PG_FUNCTION_INFO_V1(dess_batch_validator);

char *
account_excerpt(const char *text)
{
	return pnstrdup(text, pg_mbcliplen(text, strlen(text), QUOTED_LENGTH));
}

static const ServerOption *
find_server_option(const char *name)
{
	int			i;

	for (i = 0; i < lengthof(server_options); i++)
	{
		if (strcmp(server_options[i].name, name) == 0)
			return &server_options[i];
	}
	return NULL;
}

static const ProviderOption *
find_provider_option(const BatchProvider *provider, const char *name)
{
	const ProviderOption *option;

	if (provider == NULL)
		return NULL;
	for (option = provider->options; option != NULL && option->name != NULL; option++)
	{
		if (strcmp(option->name, name) == 0)
			return option;
	}
	return NULL;
}

bool
account_superuser_only(const BatchProvider *provider, const char *name)
{
	const ServerOption *general = find_server_option(name);
	const ProviderOption *special = find_provider_option(provider, name);

	return (general != NULL && general->superuser_only) ||
		(special != NULL && special->superuser_only);
}

const char *
account_restricted_option(const BatchProvider *provider, List *options)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (account_superuser_only(provider, option->defname))
			return option->defname;
	}
	return NULL;
}

/* Is this the name under which some provider keeps a secret in user mappings? */
static bool
is_secret_option(const char *name)
{
	ListCell   *lc;

	foreach(lc, provider_list())
	{
		const BatchProvider *provider = lfirst(lc);

		if (provider->mapping_option != NULL && strcmp(provider->mapping_option, name) == 0)
			return true;
	}
	return false;
}

/* Adds a name to a comma-separated list once. */
static void
append_name(StringInfo list, List **seen, const char *name)
{
	ListCell   *lc;

	foreach(lc, *seen)
	{
		if (strcmp(lfirst(lc), name) == 0)
			return;
	}
	*seen = lappend(*seen, unconstify(char *, name));
	appendStringInfo(list, "%s%s", list->len > 0 ? ", " : "", name);
}

static char *
provider_names(void)
{
	StringInfoData list;
	List	   *seen = NIL;
	ListCell   *lc;

	initStringInfo(&list);
	foreach(lc, provider_list())
		append_name(&list, &seen, ((const BatchProvider *) lfirst(lc))->name);
	return list.data;
}

static char *
server_option_names(const BatchProvider *provider)
{
	const ProviderOption *option;
	StringInfoData list;
	List	   *seen = NIL;
	int			i;

	initStringInfo(&list);
	for (i = 0; i < lengthof(server_options); i++)
		append_name(&list, &seen, server_options[i].name);
	for (option = provider->options; option != NULL && option->name != NULL; option++)
		append_name(&list, &seen, option->name);
	return list.data;
}

static char *
mapping_option_names(void)
{
	StringInfoData list;
	List	   *seen = NIL;
	ListCell   *lc;

	initStringInfo(&list);
	foreach(lc, provider_list())
	{
		const BatchProvider *provider = lfirst(lc);

		if (provider->mapping_option != NULL)
			append_name(&list, &seen, provider->mapping_option);
	}
	return list.data;
}

/* Raises HV00D.  A secret in the wrong place must not get into the log. */
compat_noreturn static void
report_unknown(const char *name, const char *detail, const char *valid)
{
	bool		hide = is_secret_option(name);

	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("invalid option \"%s\"", name),
			 detail != NULL ? errdetail_internal("%s", detail) : 0,
			 valid[0] != '\0' ?
			 errhint("Valid options in this context are: %s.", valid) :
			 errhint("There are no valid options in this context."),
			 errhidestmt(hide), errhidecontext(hide)));
}

/* Raises 22023; value is NULL where neither message nor log may quote it. */
compat_noreturn static void
report_value(const char *name, const char *value, const char *wanted)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 value != NULL ?
			 errmsg("invalid value for option \"%s\": \"%s\"",
					name, account_excerpt(value)) :
			 errmsg("invalid value for option \"%s\"", name),
			 errhint("The value must be %s.", wanted),
			 errhidestmt(value == NULL), errhidecontext(value == NULL)));
}

/* Raises 22023 for what is no usable address, 42501 for one that only superusers may give. */
static void
check_address(const char *name, const char *value)
{
	char	   *why;

	if (strpbrk(value, "?#") != NULL)
		report_value(name, NULL, "an address without query and fragment");

	why = http_check_url(value, true);
	if (why != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\": %s", name, why),
				 errhint("The value must be an address such as https://host/path."),
				 errhidestmt(true), errhidecontext(true)));

	why = superuser() ? NULL : http_check_url(value, false);
	if (why != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for the address in option \"%s\": %s", name, why),
				 errhint("Users who are not superusers may give https addresses that are neither loopback nor link-local.")));
}

/* Globs separated by commas; blanks may stand around them, not inside. */
static bool
is_glob_list(const char *value)
{
	const char *blanks = " \t\n\r\f\v";

	for (;;)
	{
		size_t		length;

		value += strspn(value, blanks);
		length = strcspn(value, ", \t\n\r\f\v");
		if (length == 0)
			return false;
		value += length;
		value += strspn(value, blanks);
		if (*value == '\0')
			return true;
		if (*value != ',')
			return false;
		value++;
	}
}

static bool
is_variable_name(const char *value)
{
	const char *letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_";
	const char *c;

	if (*value == '\0' || strchr(letters, *value) == NULL)
		return false;
	for (c = value; *c != '\0'; c++)
	{
		if (strchr(letters, *c) == NULL && !(*c >= '0' && *c <= '9'))
			return false;
	}
	return true;
}

/* [scheme://]host[:port][/], without user name and password. */
static bool
is_proxy(const char *value)
{
	static const char *const schemes[] = {
		"http://", "https://", "socks4://", "socks4a://", "socks5://", "socks5h://"
	};
	size_t		length;
	int			i;

	for (i = 0; i < lengthof(schemes); i++)
	{
		if (pg_strncasecmp(value, schemes[i], strlen(schemes[i])) == 0)
		{
			value += strlen(schemes[i]);
			break;
		}
	}
	length = strspn(value, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._:[]");
	return length > 0 && (strcmp(value + length, "") == 0 || strcmp(value + length, "/") == 0);
}

/* A decimal whole number from 1 to max. */
static bool
is_count(const char *value, int64 max)
{
	char	   *end;
	int64		number;

	if (value[0] == '\0' || value[strspn(value, "0123456789")] != '\0')
		return false;
	errno = 0;
	number = strtoi64(value, &end, 10);
	return errno == 0 && number >= 1 && number <= max;
}

/* A decimal number, not negative; no exponent, no NaN, no infinity. */
static bool
is_money(const char *value)
{
	size_t		whole = strspn(value, "0123456789");
	size_t		fraction = 0;
	const char *rest = value + whole;

	if (*rest == '.')
	{
		fraction = strspn(rest + 1, "0123456789");
		rest += 1 + fraction;
	}
	return whole + fraction > 0 && *rest == '\0' && isfinite(strtod(value, NULL));
}

static bool
has_control_characters(const char *value)
{
	for (; *value != '\0'; value++)
	{
		if ((unsigned char) *value < ' ' || *value == 0x7f)
			return true;
	}
	return false;
}

/* Raises unless value is good for an option that every provider's servers have. */
static void
check_server_value(const ServerOption *option, const char *value)
{
	const char *name = option->name;

	switch (option->kind)
	{
		case OPTION_PROVIDER:	/* looked up before */
			break;
		case OPTION_MODELS:
			if (!is_glob_list(value))
				report_value(name, value, "a comma-separated list of model names, in which * and ? are wildcards");
			break;
		case OPTION_ADDRESS:
			check_address(name, value);
			break;
		case OPTION_VARIABLE:
			if (!is_variable_name(value))
				report_value(name, NULL, "the name of an environment variable: letters, digits and underscores");
			break;
		case OPTION_PATH:
			if (!is_absolute_path(value) || strlen(value) >= MAXPGPATH)
				report_value(name, NULL, "the absolute path of a file");
			break;
		case OPTION_PROXY:
			if (!is_proxy(value))
				report_value(name, NULL, "of the form http://host:port, without user name and password, which everybody could read here");
			break;
		case OPTION_COUNT:
			if (!is_count(value, option->max))
				report_value(name, value, psprintf("a whole number from 1 to " INT64_FORMAT, option->max));
			break;
		case OPTION_MONEY:
			if (!is_money(value))
				report_value(name, value, "an amount of US dollars such as 25 or 2.50");
			break;
	}
}

/* Options whose names end in "_url" hold addresses, whichever provider they belong to. */
static bool
is_address_option(const char *name)
{
	size_t		length = strlen(name);

	return length > 4 && strcmp(name + length - 4, "_url") == 0;
}

static void
check_provider_value(const ProviderOption *option, const char *value)
{
	const char *wanted = option->check != NULL ? option->check(value) : NULL;

	if (wanted == NULL && value[0] == '\0')
		wanted = "not empty";
	if (wanted != NULL)
		report_value(option->name, is_address_option(option->name) ? NULL : value, wanted);
	if (is_address_option(option->name))
		check_address(option->name, value);
}

/* Raises HV00D for an option that servers of this provider do not have. */
compat_noreturn static void
report_unknown_server_option(const BatchProvider *provider, const char *name)
{
	char	   *detail = NULL;
	ListCell   *lc;

	if (is_secret_option(name))
		detail = pstrdup("Everybody can read the options of a server. Secrets belong into a user mapping.");
	foreach(lc, provider_list())
	{
		const BatchProvider *other = lfirst(lc);

		if (detail == NULL && find_provider_option(other, name) != NULL)
			detail = psprintf("Option \"%s\" belongs to provider \"%s\".", name, other->name);
	}
	report_unknown(name, detail, server_option_names(provider));
}

/* The provider that the options name; raises when there is none. */
static const BatchProvider *
check_provider(List *options)
{
	const BatchProvider *provider = account_provider(options);
	ListCell   *lc;

	if (provider != NULL)
		return provider;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, "provider") == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value for option \"%s\": \"%s\"", "provider",
							account_excerpt(defGetString(option))),
					 errhint("Valid providers are: %s.", provider_names())));
	}
	ereport(ERROR,
			(errcode(ERRCODE_FDW_DYNAMIC_PARAMETER_VALUE_NEEDED),
			 errmsg("option \"%s\" is required", "provider"),
			 errhint("Valid providers are: %s.", provider_names())));
}

static void
check_required(const BatchProvider *provider, List *options)
{
	const ProviderOption *required;
	ListCell   *lc;

	for (required = provider->options; required != NULL && required->name != NULL; required++)
	{
		bool		given = !required->required;

		foreach(lc, options)
			given = given || strcmp(lfirst_node(DefElem, lc)->defname, required->name) == 0;
		if (!given)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_DYNAMIC_PARAMETER_VALUE_NEEDED),
					 errmsg("option \"%s\" is required for provider \"%s\"",
							required->name, provider->name),
					 errhint("Valid options in this context are: %s.",
							 server_option_names(provider))));
	}
}

static void
check_server_options(List *options)
{
	const BatchProvider *provider = check_provider(options);
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *element = lfirst_node(DefElem, lc);
		const char *name = element->defname;
		const char *value = defGetString(element);
		const ServerOption *general = find_server_option(name);
		const ProviderOption *special = find_provider_option(provider, name);

		if (general == NULL && special == NULL)
			report_unknown_server_option(provider, name);

		if (account_superuser_only(provider, name) && !superuser())
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("option \"%s\" is superuser-only", name),
					 errhint("Servers with this option may only be created or altered by a superuser.")));

		if (has_control_characters(value))
			report_value(name, NULL, "text without control characters");
		if (general != NULL)
			check_server_value(general, value);
		else
			check_provider_value(special, value);
	}
	check_required(provider, options);
}

/*
 * The address in a key file decides where a signed assertion goes, and requests
 * for a superuser's server may go anywhere: so who gives it must be allowed to.
 */
static void
check_token_uri(const char *name, const char *key)
{
	const char *why;
	const char *uri;
	JsonDoc    *doc = json_parse(key, strlen(key), &why);

	uri = doc != NULL ? json_member_string(json_root(doc), "token_uri") : NULL;
	why = uri != NULL ? http_check_url(uri, superuser()) : NULL;
	if (why != NULL)
		ereport(ERROR,
				(errcode(http_check_url(uri, true) == NULL ?
						 ERRCODE_INSUFFICIENT_PRIVILEGE : ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid \"token_uri\" in option \"%s\": %s", name, why),
				 errhidestmt(true), errhidecontext(true)));
	json_free(doc);
}

static void
check_mapping_options(List *options)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *element = lfirst_node(DefElem, lc);
		const char *name = element->defname;
		const char *value = defGetString(element);
		const char *wanted;

		if (!is_secret_option(name))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("invalid option \"%s\"", name),
					 errhint("Valid options in this context are: %s.", mapping_option_names()),
					 errhidestmt(true), errhidecontext(true)));

		wanted = account_secret_problem(name, value);
		if (wanted != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value for option \"%s\"", name),
					 errhint("The value must be %s.", wanted),
					 errhidestmt(true), errhidecontext(true)));
		if (strcmp(name, "service_account_key") == 0)
			check_token_uri(name, value);
	}
}

/* dess_batch_validator(text[], oid): raises unless the options are good for an object of that catalog. */
Datum
dess_batch_validator(PG_FUNCTION_ARGS)
{
	List	   *options = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid			catalog = PG_GETARG_OID(1);

	if (catalog == ForeignServerRelationId)
		check_server_options(options);
	else if (catalog == UserMappingRelationId)
		check_mapping_options(options);
	else if (catalog == ForeignTableRelationId)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("foreign-data wrapper \"%s\" has no foreign tables", DESS_WRAPPER),
				 errdetail("Its servers are accounts at providers of language models.")));
	else if (options != NIL)
		report_unknown(linitial_node(DefElem, options)->defname, NULL, "");

	PG_RETURN_VOID();
}

/*
 * Raises 42501 unless a superuser alters the server, or it has no superuser-only
 * option.  In the hook the caches still hold the server as it was before.
 */
static void
check_alter_server(Oid serverid)
{
	ForeignServer *server;
	const char *restricted;

	if (superuser())
		return;
	server = GetForeignServerExtended(serverid, FSV_MISSING_OK);
	if (server == NULL ||
		server->fdwid != get_foreign_data_wrapper_oid(DESS_WRAPPER, true))
		return;

	restricted = account_restricted_option(account_provider(server->options),
											  server->options);
	if (restricted != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to alter server \"%s\"", server->servername),
				 errdetail("It has the superuser-only option \"%s\".", restricted)));
}

/* Raises HV00D unless the options of a mapping of one of our servers are those of its provider. */
static void
check_mapping_names(Oid serverid, List *options)
{
	ForeignServer *server = GetForeignServerExtended(serverid, FSV_MISSING_OK);
	const BatchProvider *provider;
	const char *valid;
	ListCell   *lc;

	if (server == NULL ||
		server->fdwid != get_foreign_data_wrapper_oid(DESS_WRAPPER, true))
		return;
	provider = account_provider(server->options);
	if (provider == NULL)
		return;

	valid = provider->mapping_option != NULL ? provider->mapping_option : "";
	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, valid) != 0)
			report_unknown(option->defname,
						   psprintf("Server \"%s\" has provider \"%s\".",
									server->servername, provider->name),
						   valid);
	}
}

/* Looks at a mapping that this very command has written, which no other snapshot shows. */
static void
check_written_mapping(Oid mapping)
{
	Relation	relation;
	ScanKeyData key[1];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key[0], Anum_pg_user_mapping_oid,
				BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(mapping));
	relation = table_open(UserMappingRelationId, AccessShareLock);
	scan = systable_beginscan(relation, UserMappingOidIndexId, true, SnapshotSelf,
							  lengthof(key), key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		Oid			serverid = ((Form_pg_user_mapping) GETSTRUCT(tuple))->umserver;
		bool		isnull;
		Datum		options = heap_getattr(tuple, Anum_pg_user_mapping_umoptions,
										   RelationGetDescr(relation), &isnull);

		if (!isnull)
			check_mapping_names(serverid, untransformRelOptions(options));
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
}

static void
object_access(ObjectAccessType access, Oid catalog, Oid object, int subobject, void *arg)
{
	if (previous_object_access_hook != NULL)
		previous_object_access_hook(access, catalog, object, subobject, arg);

	if (catalog == ForeignServerRelationId && access == OAT_POST_ALTER)
		check_alter_server(object);
	else if (catalog == UserMappingRelationId &&
			 (access == OAT_POST_CREATE || access == OAT_POST_ALTER))
		check_written_mapping(object);
}

void
account_init(void)
{
	previous_object_access_hook = object_access_hook;
	object_access_hook = object_access;
}
