/*-------------------------------------------------------------------------
 *
 * account.c
 *		Which server a model goes to, and that server as an account.
 *
 * Rights are always those of the role that is passed in, never of the current
 * user: the worker asks for a job's owner while it is somebody else.
 *
 * A server that the caller did not name is only taken if it belongs to a
 * superuser or to a role whose rights the caller has.  Otherwise anybody could
 * catch others' rows by creating a server for "*" and granting USAGE to PUBLIC.
 *
 * Nothing is remembered between calls but what the system caches hold, so
 * that every change of a server, a mapping or a role counts from the next
 * transaction on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_foreign_server.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "account/account.h"
#include "runtime/compat.h"
#include "text/digest.h"

/* servers that are named to whoever has mistyped a model */
#define MAX_OFFERS		3

/* The servers of the wrapper as rule 2 of the factory sees them. */
typedef struct ServerSearch
{
	const char *model;
	Oid			role;
	List	   *matches;		/* of char *, the names */
	Oid			match;			/* the last one */
	ForeignServer *no_usage;	/* serves the model, but USAGE is missing */
	ForeignServer *stranger;	/* serves the model, but must be named */
	StringInfo	offers;			/* what others serve; NULL: there are none */
	int			noffers;
} ServerSearch;

static const char *
find_option(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, name) == 0)
			return defGetString(option);
	}
	return NULL;
}

const BatchProvider *
account_provider(List *options)
{
	const char *name = find_option(options, "provider");

	return name == NULL ? NULL : provider_find(name);
}

/* A whole number that the validator has accepted, or otherwise when it is not set. */
static int64
integer_option(const Account *account, const char *name, int64 otherwise)
{
	const char *value = account_option(account, name);

	return value == NULL ? otherwise : (int64) strtoi64(value, NULL, 10);
}

static double
money_option(const Account *account, const char *name)
{
	const char *value = account_option(account, name);

	return value == NULL ? -1.0 : strtod(value, NULL);
}

/* The smaller of a server's option and the provider's own limit, of which 0 means none. */
static int64
limit_option(const Account *account, const char *name, int64 limit)
{
	int64		most = limit > 0 ? limit : PG_INT64_MAX;

	return Min(integer_option(account, name, most), most);
}

static char *
string_option(const Account *account, const char *name)
{
	const char *value = account_option(account, name);

	return value == NULL ? NULL : pstrdup(value);
}

/* Copy of an address without slashes at its end; NULL stays NULL. */
static char *
trim_address(const char *address)
{
	size_t		length;

	if (address == NULL)
		return NULL;
	for (length = strlen(address); length > 0 && address[length - 1] == '/'; length--)
		;
	return pnstrdup(address, length);
}

static char *
built_in_name(const BatchProvider *provider)
{
	return psprintf("(built-in %s)", provider->name);
}

/* An account without a secret, in the current context; server NULL: the built-in one. */
static Account *
make_account(const BatchProvider *provider, const ForeignServer *server, Oid role)
{
	Account    *account = palloc0(sizeof(Account));
	const char *base_url;

	account->provider = provider;
	account->role = role;
	if (server != NULL)
	{
		account->server = server->servername;
		account->server_oid = server->serverid;
		account->options = server->options;
		account->trusted = superuser_arg(server->owner);
	}
	else
	{
		account->server = built_in_name(provider);
		account->trusted = true;
	}

	base_url = account_option(account, "base_url");
	account->base_url = trim_address(base_url != NULL ? base_url : provider->base_url);
	account->ca_file = string_option(account, "ca_file");
	account->proxy = string_option(account, "proxy");
	account->max_concurrency = integer_option(account, "max_concurrency", 64);
	account->poll_interval = integer_option(account, "poll_interval", 30);
	account->request_timeout = integer_option(account, "request_timeout", 120);
	account->requests_per_minute = integer_option(account, "requests_per_minute", 0);
	account->tokens_per_minute = integer_option(account, "tokens_per_minute", 0);
	account->max_batch_requests = limit_option(account, "max_batch_requests",
											   provider->limits.max_requests);
	account->max_batch_bytes = limit_option(account, "max_batch_bytes",
											provider->limits.max_bytes);
	account->max_active_batches = integer_option(account, "max_active_batches", 8);
	account->max_enqueued_tokens = integer_option(account, "max_enqueued_tokens", 0);
	account->max_cost_per_day = money_option(account, "max_cost_per_day");
	account->max_cost_per_month = money_option(account, "max_cost_per_month");
	return account;
}

static bool
may_use(const ForeignServer *server, Oid role)
{
	return compat_foreign_server_aclcheck(server->serverid, role, ACL_USAGE) == ACLCHECK_OK;
}

/* The hint that goes with a missing USAGE. */
static char *
grant_hint(const ForeignServer *server, Oid role)
{
	return psprintf("To grant it: GRANT USAGE ON FOREIGN SERVER %s TO %s;",
					quote_identifier(server->servername),
					quote_identifier(GetUserNameFromId(role, false)));
}

/*
 * The provider of a server that role may use.  Raises 42501 when it may not, or
 * when the server has options that its owner could not have set, and 42704
 * when the provider's module is not loaded.
 */
static const BatchProvider *
check_server(const ForeignServer *server, Oid role)
{
	const BatchProvider *provider = account_provider(server->options);
	const char *restricted;

	if (!may_use(server, role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for foreign server \"%s\"", server->servername),
				 errhint("%s", grant_hint(server, role))));

	if (provider == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("provider \"%s\" of server \"%s\" is not registered",
						find_option(server->options, "provider"), server->servername),
				 errhint("Add the module that registers it to \"shared_preload_libraries\".")));

	restricted = account_restricted_option(provider, server->options);
	if (restricted != NULL && !superuser_arg(server->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("server \"%s\" has the superuser-only option \"%s\", but its owner is not a superuser",
						server->servername, restricted),
				 errhint("Drop the option, or let a superuser own the server.")));
	return provider;
}

static void
check_address(const Account *account, const char *option, const char *address)
{
	char	   *why = http_check_url(address, account->trusted);

	if (why != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("server \"%s\" may not use the address in its option \"%s\": %s",
						account->server, option, why)));
}

/* Says at submit what every request would run into; requests check again. */
static void
check_addresses(const Account *account)
{
	const char *storage_url = account_option(account, "storage_url");

	if (account->base_url != NULL)
		check_address(account, "base_url", account->base_url);
	if (storage_url != NULL)
		check_address(account, "storage_url", storage_url);
}

/* Raises 42704 for a role that is gone: its OID would still have the rights of PUBLIC. */
static void
check_role(Oid role)
{
	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(role)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role with OID %u does not exist", role)));
}

/* The built-in server of a provider; for superusers only. */
static Account *
built_in_account(const BatchProvider *provider, Oid role)
{
	if (!superuser_arg(role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("only superusers may use server \"%s\"", built_in_name(provider)),
				 errhint("Create a server with CREATE SERVER, or ask for USAGE on one.")));
	return make_account(provider, NULL, role);
}

/* The provider whose built-in server has this name, or NULL. */
static const BatchProvider *
find_built_in(const char *server_name)
{
	ListCell   *lc;

	foreach(lc, provider_list())
	{
		const BatchProvider *provider = lfirst(lc);

		if (provider->built_in && strcmp(server_name, built_in_name(provider)) == 0)
			return provider;
	}
	return NULL;
}

static void
check_wrapper(const ForeignServer *server)
{
	if (server->fdwid != get_foreign_data_wrapper_oid(DESS_WRAPPER, true))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" does not belong to foreign-data wrapper \"%s\"",
						server->servername, DESS_WRAPPER)));
}

/* Rule 1: the server that the caller named.  Built-in names come first, so that nobody can take one. */
static Account *
route_named(const char *server_name, Oid role)
{
	const BatchProvider *provider = find_built_in(server_name);
	ForeignServer *server;

	if (provider != NULL)
		return built_in_account(provider, role);

	server = GetForeignServerByName(server_name, true);
	if (server == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" does not exist", server_name),
				 errhint("Create it with CREATE SERVER %s FOREIGN DATA WRAPPER %s OPTIONS (provider '...').",
						 quote_identifier(server_name), DESS_WRAPPER)));
	check_wrapper(server);
	return make_account(check_server(server, role), server, role);
}

static bool
server_serves(const ForeignServer *server, const char *model)
{
	const BatchProvider *provider = account_provider(server->options);
	const char *globs = find_option(server->options, "models");

	if (provider == NULL)
		return false;
	if (globs == NULL)
		globs = provider->usual_models;
	return globs != NULL && provider_glob_match(globs, model);
}

/*
 * May a server of this owner take the role's rows without being named?  A
 * superuser has everybody's rights, which would let anybody's server of models
 * "*" catch a superuser's rows: for him only his own memberships count.
 */
static bool
trusts_owner(Oid role, Oid owner)
{
	if (superuser_arg(owner) || role == owner)
		return true;
	return superuser_arg(role) ? is_member_of_role_nosuper(role, owner) :
		has_privs_of_role(role, owner);
}

/* What a server that does not serve the model serves, for whoever has mistyped the name. */
static void
note_offer(ServerSearch *search, const ForeignServer *server)
{
	const BatchProvider *provider = account_provider(server->options);
	const char *globs = find_option(server->options, "models");

	if (globs == NULL && provider != NULL)
		globs = provider->usual_models;
	if (globs == NULL || search->noffers++ >= MAX_OFFERS)
		return;
	if (search->offers == NULL)
		search->offers = makeStringInfo();
	appendStringInfo(search->offers, " Server \"%s\" serves \"%s\".", server->servername, account_excerpt(globs));
}

/* Sorts one server into the search. */
static void
consider_server(ServerSearch *search, Oid serverid)
{
	ForeignServer *server = GetForeignServerExtended(serverid, FSV_MISSING_OK);

	if (server == NULL)
		return;
	if (!server_serves(server, search->model))
	{
		if (may_use(server, search->role))
			note_offer(search, server);
		return;
	}

	if (!may_use(server, search->role))
		search->no_usage = server;
	else if (!trusts_owner(search->role, server->owner))
		search->stranger = server;
	else
	{
		search->matches = lappend(search->matches, server->servername);
		search->match = serverid;
	}
}

static void
search_servers(ServerSearch *search)
{
	Oid			wrapper = get_foreign_data_wrapper_oid(DESS_WRAPPER, true);
	List	   *servers = NIL;
	ListCell   *lc;
	ScanKeyData key[1];
	Relation	relation;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key[0], Anum_pg_foreign_server_srvfdw,
				BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(wrapper));
	relation = table_open(ForeignServerRelationId, AccessShareLock);
	scan = systable_beginscan(relation, InvalidOid, false, NULL, lengthof(key), key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		servers = lappend_oid(servers, ((Form_pg_foreign_server) GETSTRUCT(tuple))->oid);
	systable_endscan(scan);
	table_close(relation, AccessShareLock);

	foreach(lc, servers)
		consider_server(search, lfirst_oid(lc));
}

static int
compare_names(const ListCell *a, const ListCell *b)
{
	return strcmp(lfirst(a), lfirst(b));
}

/* Raises 42725. */
compat_noreturn static void
report_ambiguous(const char *model, List *names)
{
	StringInfoData list;
	ListCell   *lc;

	list_sort(names, compare_names);
	initStringInfo(&list);
	foreach(lc, names)
		appendStringInfo(&list, "%s\"%s\"", list.len > 0 ? ", " : "",
						 (const char *) lfirst(lc));

	ereport(ERROR,
			(errcode(ERRCODE_AMBIGUOUS_FUNCTION),
			 errmsg("several servers serve model \"%s\": %s",
					account_excerpt(model), list.data),
			 errhint("Name one of them, for example server => %s, or make their option \"models\" narrower.",
					 quote_literal_cstr(linitial(names)))));
}

/* The SQL that makes a server for a model; the model's usual provider, if it has one, is named. */
static char *
create_hint(const char *model)
{
	const BatchProvider *usual = NULL;
	const ProviderOption *option;
	StringInfoData hint;
	ListCell   *lc;

	foreach(lc, provider_list())
	{
		const BatchProvider *provider = lfirst(lc);

		if (provider->usual_models != NULL && usual == NULL &&
			provider_glob_match(provider->usual_models, model))
			usual = provider;
	}

	initStringInfo(&hint);
	if (usual == NULL)
	{
		appendStringInfo(&hint, "Add the model to the option \"models\" of a server that you may use, or create one: CREATE SERVER ... FOREIGN DATA WRAPPER %s OPTIONS (provider '...', models %s);",
						 DESS_WRAPPER, quote_literal_cstr(account_excerpt(model)));
		return hint.data;
	}

	appendStringInfo(&hint, "Create a server: CREATE SERVER %s FOREIGN DATA WRAPPER %s OPTIONS (provider %s",
					 quote_identifier(usual->name), DESS_WRAPPER,
					 quote_literal_cstr(usual->name));
	for (option = usual->options; option != NULL && option->name != NULL; option++)
	{
		if (option->required)
			appendStringInfo(&hint, ", %s '...'", quote_identifier(option->name));
	}
	appendStringInfoString(&hint, ");");
	if (usual->mapping_option != NULL)
		appendStringInfo(&hint, " CREATE USER MAPPING FOR CURRENT_USER SERVER %s OPTIONS (%s '...');",
						 quote_identifier(usual->name), quote_identifier(usual->mapping_option));
	return hint.data;
}

/* Rule 4: raises 42704, with what to do. */
compat_noreturn static void
report_unserved(const ServerSearch *search)
{
	char	   *model = account_excerpt(search->model);

	if (search->no_usage != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("no provider serves model \"%s\"", model),
				 errdetail("Server \"%s\" serves it, but role \"%s\" has no USAGE on that server.",
						   search->no_usage->servername,
						   GetUserNameFromId(search->role, false)),
				 errhint("%s", grant_hint(search->no_usage, search->role))));

	if (search->stranger != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("no provider serves model \"%s\"", model),
				 errdetail("Server \"%s\" serves it, but belongs to role \"%s\", so it must be named.",
						   search->stranger->servername,
						   GetUserNameFromId(search->stranger->owner, false)),
				 errhint("Name it if you trust its owner with the rows: server => %s.",
						 quote_literal_cstr(search->stranger->servername))));

	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("no provider serves model \"%s\"", model),
			 search->offers != NULL ? errdetail_internal("%s", search->offers->data + 1) : 0,
			 errhint("%s", create_hint(search->model))));
}

/* Rules 2 to 4: the one server that serves the model. */
static Account *
route_by_model(const char *model, Oid role)
{
	ServerSearch search = {.model = model, .role = role};
	const BatchProvider *built_in = NULL;
	List	   *built_ins = NIL;
	ListCell   *lc;

	search_servers(&search);
	if (list_length(search.matches) > 1)
		report_ambiguous(model, search.matches);
	if (search.matches != NIL)
	{
		ForeignServer *server = GetForeignServer(search.match);

		return make_account(check_server(server, role), server, role);
	}

	if (!superuser_arg(role))
		report_unserved(&search);

	foreach(lc, provider_list())
	{
		const BatchProvider *provider = lfirst(lc);

		if (!provider->built_in || !provider_glob_match(provider->usual_models, model))
			continue;
		built_in = provider;
		built_ins = lappend(built_ins, built_in_name(provider));
	}
	if (list_length(built_ins) > 1)
		report_ambiguous(model, built_ins);
	if (built_in == NULL)
		report_unserved(&search);
	return built_in_account(built_in, role);
}

/* Raises if a model of that name could be another one for the provider than for us. */
static void
check_model(const BatchProvider *provider, const char *model)
{
	const char *form = provider_model_problem(provider, model);

	if (form == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 provider == NULL ? errmsg("invalid name of a model: \"%s\"", account_excerpt(model)) :
			 errmsg("invalid name of a model for provider \"%s\": \"%s\"", provider->name, account_excerpt(model)),
			 errhint("It should be %s.", form)));
}

Account *
account_route(const char *model, const char *server_name, Oid role)
{
	Account    *account;

	check_role(role);
	check_model(NULL, model);
	if (server_name != NULL)
		account = route_named(server_name, role);
	else
		account = route_by_model(model, role);
	check_model(account->provider, model);
	check_addresses(account);
	return account;
}

static void
wipe_at_reset(void *account)
{
	account_wipe(account);
}

Account *
account_load(Oid server_oid, const char *provider_name, Oid role)
{
	MemoryContextCallback *callback;
	ForeignServer *server;
	Account    *account;

	check_role(role);
	if (OidIsValid(server_oid))
	{
		server = GetForeignServerExtended(server_oid, FSV_MISSING_OK);
		if (server == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("server with OID %u does not exist", server_oid)));
		check_wrapper(server);
		account = make_account(check_server(server, role), server, role);
	}
	else
	{
		const BatchProvider *provider = provider_find(provider_name);

		if (provider == NULL || !provider->built_in)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("server \"(built-in %s)\" does not exist", provider_name)));
		account = built_in_account(provider, role);
	}

	callback = palloc0(sizeof(MemoryContextCallback));
	callback->func = wipe_at_reset;
	callback->arg = account;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);
	account_find_secret(account);
	return account;
}

void
account_wipe(Account *account)
{
	if (account->secret != NULL)
		explicit_bzero(account->secret, strlen(account->secret));
}

/* Lengths stand before names and values, so that no two lists have the same bytes. */
static void
append_counted(StringInfo out, const char *text)
{
	appendStringInfo(out, "%zu:%s", strlen(text), text);
}

char *
account_fingerprint(const Account *account)
{
	StringInfoData facts;
	Digest		digest;
	ListCell   *lc;

	initStringInfo(&facts);
	appendStringInfoChar(&facts, '\0');
	appendStringInfo(&facts, "%u %d ", account->server_oid, account->trusted);
	append_counted(&facts, account->provider->name);
	append_counted(&facts, account->base_url != NULL ? account->base_url : "");
	foreach(lc, account->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		append_counted(&facts, option->defname);
		append_counted(&facts, defGetString(option));
	}

	digest_sha256(account->secret, account->secret != NULL ? strlen(account->secret) : 0,
				  facts.data, facts.len, &digest);
	return digest_to_hex(&digest);
}

void
account_identity(const Account *account, char identity[ACCOUNT_IDENTITY_SIZE])
{
	const char *secret = account->provider->authorize == NULL && account->secret != NULL ? account->secret : "";
	StringInfoData facts;
	Digest		digest;
	char	   *hex;

	initStringInfo(&facts);
	appendStringInfoChar(&facts, '\0');
	append_counted(&facts, account->provider->name);
	append_counted(&facts, account->base_url != NULL ? account->base_url : "");
	for (const ProviderOption *option = account->provider->options; option->name != NULL; option++)
	{
		const char *value = option->names_account ? account_option(account, option->name) : NULL;

		if (value != NULL)
		{
			append_counted(&facts, option->name);
			append_counted(&facts, value);
		}
	}
	digest_sha256(secret, strlen(secret), facts.data, facts.len, &digest);
	hex = digest_to_hex(&digest);
	strlcpy(identity, hex, ACCOUNT_IDENTITY_SIZE);
	pfree(hex);
	pfree(facts.data);
}

void
account_complete_request(HttpRequest *request, const Account *account)
{
	request->idle_timeout = account->request_timeout;
	request->ca_file = account->ca_file;
	request->proxy = account->proxy;
	request->trusted = account->trusted;
}
