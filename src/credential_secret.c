/*-------------------------------------------------------------------------
 *
 * credential_secret.c
 *		Where the secret of an account is: mappings, files, environment.
 *
 * User mappings are read from the catalog directly: GetUserMapping() raises
 * where there is none, falls back to PUBLIC by itself, and copies every option.
 *
 * Files and environment variables belong to whoever runs the server.  They
 * serve built-in servers and servers owned by a superuser, which is looked up
 * whenever an account is loaded, because owners lose that attribute.
 *
 * A secret is copied as rarely as possible, and every copy made here is zeroed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "catalog/pg_user_mapping.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

#include "compat.h"
#include "credential.h"
#include "json.h"

/* More than any API key or key file needs. */
#define SECRET_FILE_LIMIT	(64 * 1024)

/* An account on its way to a secret, and the places passed. */
typedef struct SecretSearch
{
	Account    *account;
	StringInfoData places;
} SecretSearch;

/* Is text the JSON of a service account's key file? */
static bool
is_service_account_key(const char *text)
{
	static const char *const members[] = {"client_email", "private_key"};
	const char *why;
	const char *type;
	JsonDoc    *doc;
	JsonValue  *root;
	bool		good;
	int			i;

	doc = json_parse(text, strlen(text), &why);
	if (doc == NULL)
		return false;

	root = json_root(doc);
	type = json_member_string(root, "type");
	good = json_is_object(root) && type != NULL && strcmp(type, "service_account") == 0;
	for (i = 0; good && i < lengthof(members); i++)
	{
		const char *value = json_member_string(root, members[i]);

		good = value != NULL && value[0] != '\0';
	}
	json_free(doc);
	return good;
}

const char *
credential_secret_problem(const char *mapping_option, const char *value)
{
	const unsigned char *c;

	if (strcmp(mapping_option, "service_account_key") == 0)
		return is_service_account_key(value) ? NULL :
			"the JSON text of a service account's key file, with \"type\": \"service_account\", \"client_email\" and \"private_key\"";

	for (c = (const unsigned char *) value; *c > ' ' && *c < 0x7f; c++)
		;
	if (c == (const unsigned char *) value || *c != '\0')
		return "a key of printable ASCII characters without spaces";
	return NULL;
}

/* May a secret be read from this file?  NULL, or why not: the rules of ssl_key_file. */
static const char *
file_mode_problem(const struct stat *st)
{
	if (!S_ISREG(st->st_mode))
		return "it is not a regular file";
	if (st->st_uid != geteuid() && st->st_uid != 0)
		return "it must be owned by the database user or root";
	if ((st->st_uid == geteuid() && (st->st_mode & (S_IRWXG | S_IRWXO))) ||
		(st->st_uid == 0 && (st->st_mode & (S_IWGRP | S_IXGRP | S_IRWXO))))
		return "it must have permissions u=rw (0600) or less if owned by the database user, or u=rw,g=r (0640) or less if owned by root";
	return NULL;
}

/* Reads exactly length bytes, the end of the file behind them; or says why not. */
static const char *
read_all(int fd, char *buffer, size_t length)
{
	size_t		have = 0;

	for (;;)
	{
		ssize_t		n = read(fd, buffer + have, length + 1 - have);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return pstrdup(strerror(errno));
		if (n == 0)
			break;
		have += n;
		if (have > length)
			break;
	}
	if (have != length)
		return "it changed while it was read";
	buffer[length] = '\0';
	if (strlen(buffer) != length)
		return "it holds a NUL byte";
	return NULL;
}

char *
credential_read_file(const char *path, size_t limit, const char **why)
{
	char	   *buffer = NULL;
	size_t		length = 0;
	struct stat st;
	int			fd;

	/* O_NONBLOCK: a named pipe is refused, not waited for */
	fd = OpenTransientFile(path, O_RDONLY | O_NONBLOCK | PG_BINARY);
	if (fd < 0)
	{
		*why = pstrdup(strerror(errno));
		return NULL;
	}

	if (fstat(fd, &st) != 0)
		*why = pstrdup(strerror(errno));
	else
		*why = file_mode_problem(&st);
	if (*why == NULL && st.st_size > limit)
		*why = "it is too large";
	if (*why == NULL)
	{
		length = st.st_size;
		buffer = palloc(length + 2);
		*why = read_all(fd, buffer, length);
	}
	CloseTransientFile(fd);

	if (*why != NULL)
	{
		if (buffer != NULL)
			explicit_bzero(buffer, length + 2);
		return NULL;
	}
	while (length > 0 && (buffer[length - 1] == '\n' || buffer[length - 1] == '\r'))
		buffer[--length] = '\0';
	return buffer;
}

/* Value of one option in a catalog's option array, as UTF-8, or NULL. */
static char *
array_option(Datum options, const char *name)
{
	ArrayType  *array = DatumGetArrayTypeP(options);
	size_t		name_length = strlen(name);
	char	   *value = NULL;
	Datum	   *elements;
	int			count;
	int			i;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL, &count);
	for (i = 0; i < count && value == NULL; i++)
	{
		text	   *element = DatumGetTextPP(elements[i]);
		const char *data = VARDATA_ANY(element);
		size_t		length = VARSIZE_ANY_EXHDR(element);

		if (length > name_length && data[name_length] == '=' &&
			memcmp(data, name, name_length) == 0)
			value = pnstrdup(data + name_length + 1, length - name_length - 1);
	}
	if ((Pointer) array != DatumGetPointer(options))
		explicit_bzero(array, VARSIZE(array));

	if (value != NULL)
	{
		char	   *converted = pg_server_to_any(value, strlen(value), PG_UTF8);

		if (converted != value)
			explicit_bzero(value, strlen(value));
		value = converted;
	}
	return value;
}

/* The secret in the user mapping of exactly this user (InvalidOid: PUBLIC), or NULL with *why set. */
static char *
mapping_secret(const Account *account, Oid user, const char **why)
{
	const char *option = account->provider->mapping_option;
	char	   *secret = NULL;
	bool		isnull;
	Datum		options;
	HeapTuple	tuple;

	tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(user),
							ObjectIdGetDatum(account->server_oid));
	if (!HeapTupleIsValid(tuple))
	{
		*why = "there is none";
		return NULL;
	}

	options = SysCacheGetAttr(USERMAPPINGUSERSERVER, tuple,
							  Anum_pg_user_mapping_umoptions, &isnull);
	if (!isnull)
		secret = array_option(options, option);
	ReleaseSysCache(tuple);

	if (secret == NULL)
		*why = psprintf("it has no option \"%s\"", option);
	return secret;
}

/*
 * Takes candidate, found at place, as the account's secret if it can be one.
 * A candidate of NULL was not found, for the reason why.
 */
static bool
take_secret(SecretSearch *search, char *place, char *candidate, const char *why)
{
	Account    *account = search->account;

	if (candidate != NULL)
	{
		const char *wanted = credential_secret_problem(account->provider->mapping_option,
													   candidate);

		if (wanted != NULL)
		{
			explicit_bzero(candidate, strlen(candidate));
			candidate = NULL;
			why = psprintf("it must hold %s", wanted);
		}
	}

	if (search->places.len > 0)
		appendStringInfoString(&search->places, ", ");
	appendStringInfoString(&search->places, place);
	if (candidate == NULL)
	{
		appendStringInfo(&search->places, " (%s)", why);
		return false;
	}

	account->secret = candidate;
	account->secret_source = place;
	return true;
}

static bool
search_mapping(SecretSearch *search, Oid user)
{
	const char *why = NULL;
	char	   *secret = mapping_secret(search->account, user, &why);
	char	   *place = OidIsValid(user) ?
		psprintf("user mapping of \"%s\"", GetUserNameFromId(user, false)) :
		pstrdup("user mapping of public");

	return take_secret(search, place, secret, why);
}

static bool
search_file(SecretSearch *search, const char *path)
{
	const char *why = NULL;
	char	   *secret = credential_read_file(path, SECRET_FILE_LIMIT, &why);

	return take_secret(search, psprintf("file \"%s\"", path), secret, why);
}

static bool
search_variable(SecretSearch *search, const char *name)
{
	const char *value = getenv(name);
	char	   *secret = NULL;

	if (value != NULL && value[0] != '\0')
		secret = pstrdup(value);
	return take_secret(search, psprintf("environment variable %s", name), secret,
					   value == NULL ? "it is not set" : "it is empty");
}

/*
 * What belongs to whoever runs the server.  The usual variables stand in for
 * api_key_env: where that is set they are not looked at, or the key of one
 * provider could go to another whose variable was forgotten.
 */
static bool
search_server_side(SecretSearch *search)
{
	const Account *account = search->account;
	const char *path = account_option(account, "api_key_file");
	const char *variable = account_option(account, "api_key_env");
	const char *const *usual = account->provider->secret_variables;

	if (path != NULL && search_file(search, path))
		return true;
	if (variable != NULL)
		return search_variable(search, variable);
	for (; usual != NULL && *usual != NULL; usual++)
	{
		if (search_variable(search, *usual))
			return true;
	}
	return false;
}

void
credential_find_secret(Account *account)
{
	SecretSearch search;
	bool		found = false;

	if (account->provider->mapping_option == NULL)
	{
		account->secret_searched = pstrdup("");
		return;
	}

	search.account = account;
	initStringInfo(&search.places);
	if (OidIsValid(account->server_oid))
		found = search_mapping(&search, account->role) ||
			search_mapping(&search, InvalidOid);
	if (!found && account->trusted)
		found = search_server_side(&search);
	if (!found && !account->trusted)
		appendStringInfoString(&search.places,
							   "; files and environment variables serve only servers owned by a superuser");
	account->secret_searched = search.places.data;
}
