/*-------------------------------------------------------------------------
 *
 * secret.c
 *		Where the secret of an account is: mappings, files, environment.
 *
 * User mappings are read from the catalog directly: GetUserMapping() raises
 * where there is none, falls back to PUBLIC by itself, and copies every option.
 *
 * Files and environment variables belong to whoever runs the server.  They
 * serve built-in servers and servers owned by a superuser, which is looked up
 * whenever an account is loaded, because owners lose that attribute.
 *
 * Google's credentials are found in the order of its own libraries.  Where there
 * are none, the secret says that the metadata server is to be asked.
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

#include "account/account.h"
#include "provider/google/key.h"
#include "runtime/compat.h"

/* More than any API key or key file needs. */
#define SECRET_FILE_LIMIT	(64 * 1024)

/* Providers that keep their secret under this name take all of Google's credentials. */
#define GOOGLE_MAPPING_OPTION	"service_account_key"
#define GOOGLE_DEFAULT_FILE	"application_default_credentials.json"

/* An account on its way to a secret, and the places passed. */
typedef struct SecretSearch
{
	Account    *account;
	StringInfoData places;
} SecretSearch;

const char *
account_secret_problem(const char *mapping_option, const char *value)
{
	const unsigned char *c;

	if (strcmp(mapping_option, GOOGLE_MAPPING_OPTION) == 0)
		return google_key_problem(value, false);

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
account_read_file(const char *path, size_t limit, const char **why)
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
 * Takes candidate, found at place, as the account's secret if nothing else is
 * wanted there.  A candidate of NULL was not found, for the reason why.
 */
static bool
take_candidate(SecretSearch *search, char *place, char *candidate, const char *wanted, const char *why)
{
	Account    *account = search->account;

	if (candidate != NULL)
	{
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

/* The same for what must be of the kind that mappings hold. */
static bool
take_secret(SecretSearch *search, char *place, char *candidate, const char *why)
{
	const char *wanted = NULL;

	if (candidate != NULL)
		wanted = account_secret_problem(search->account->provider->mapping_option, candidate);
	return take_candidate(search, place, candidate, wanted, why);
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
	char	   *secret = account_read_file(path, SECRET_FILE_LIMIT, &why);

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

/* ---- Google's application default credentials ---- */

/* Puts the token of an external account, which lies in a file of its own, into its text. */
static char *
add_subject_token(char *key, const char **why)
{
	char	   *path = google_key_subject_file(key);
	char	   *content;
	char	   *whole = NULL;

	if (path == NULL)
		return key;
	content = is_absolute_path(path) ? account_read_file(path, SECRET_FILE_LIMIT, why) : NULL;
	if (content != NULL)
	{
		whole = google_key_with_subject(key, content, why);
		explicit_bzero(content, strlen(content));
	}
	else if (!is_absolute_path(path))
		*why = "it is not an absolute path";
	if (whole == NULL)
		*why = psprintf("its token file \"%s\" cannot be used: %s", path, *why);
	explicit_bzero(key, strlen(key));
	return whole;
}

/* A file with credentials of any kind. */
static bool
search_google_file(SecretSearch *search, const char *path, char *place)
{
	const char *why = NULL;
	const char *wanted = NULL;
	char	   *key = account_read_file(path, SECRET_FILE_LIMIT, &why);

	if (key != NULL)
		wanted = google_key_problem(key, true);
	if (key != NULL && wanted == NULL)
		key = add_subject_token(key, &why);
	return take_candidate(search, place, key, wanted, why);
}

/* Where gcloud leaves a login's credentials, palloc'd, or NULL. */
static char *
gcloud_file(void)
{
	const char *directory = getenv("CLOUDSDK_CONFIG");
	const char *home = getenv("HOME");

	if (directory != NULL && directory[0] != '\0')
		return psprintf("%s/%s", directory, GOOGLE_DEFAULT_FILE);
	return (home != NULL && home[0] != '\0') ? psprintf("%s/.config/gcloud/%s", home, GOOGLE_DEFAULT_FILE) : NULL;
}

/* A host and perhaps a port; what is anything else is as good as not set. */
static const char *
host_variable(const char *name)
{
	const char *value = getenv(name);

	if (value == NULL || value[0] == '\0' ||
		value[strspn(value, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_:[]")] != '\0')
		return NULL;
	return value;
}

/* The machine's own account: who asks for a token learns whether there is one. */
static bool
take_metadata_server(SecretSearch *search)
{
	const char *host = host_variable("GCE_METADATA_HOST");
	bool		api_key = getenv("GOOGLE_API_KEY") != NULL;

	if (host == NULL)
		host = host_variable("GCE_METADATA_IP");
	return take_candidate(search,
						  pstrdup(api_key ? "metadata server (environment variable GOOGLE_API_KEY is no use to Vertex AI)" :
								  "metadata server"),
						  google_key_metadata_server(host, api_key), NULL, NULL);
}

/* What is named is used or nothing is; the metadata server is asked where nothing is there. */
static bool
search_google(SecretSearch *search)
{
	const char *option = account_option(search->account, "credentials_file");
	const char *variable = getenv("GOOGLE_APPLICATION_CREDENTIALS");
	char	   *path;
	struct stat st;

	if (option != NULL)
		return search_google_file(search, option, psprintf("file \"%s\"", option));
	if (variable != NULL && variable[0] != '\0')
		return search_google_file(search, variable,
								  psprintf("file \"%s\" of environment variable GOOGLE_APPLICATION_CREDENTIALS", variable));
	take_candidate(search, pstrdup("environment variable GOOGLE_APPLICATION_CREDENTIALS"), NULL, NULL, "it is not set");
	path = gcloud_file();
	if (path != NULL && (stat(path, &st) == 0 || (errno != ENOENT && errno != ENOTDIR)))
		return search_google_file(search, path, psprintf("file \"%s\"", path));
	if (path != NULL)
		take_candidate(search, psprintf("file \"%s\"", path), NULL, NULL, "there is none");
	return take_metadata_server(search);
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
	if (strcmp(account->provider->mapping_option, GOOGLE_MAPPING_OPTION) == 0)
		return search_google(search);
	for (; usual != NULL && *usual != NULL; usual++)
	{
		if (search_variable(search, *usual))
			return true;
	}
	return false;
}

void
account_find_secret(Account *account)
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
