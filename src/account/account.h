/*-------------------------------------------------------------------------
 *
 * account.h
 *		Servers and user mappings of the wrapper "dess_batch": validation of
 *		their options, which server a model goes to, and where its secret is.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_ACCOUNT_H
#define DESS_ACCOUNT_H

#include "provider/provider.h"

/* The foreign-data wrapper whose servers are accounts. */
#define DESS_WRAPPER	"dess_batch"

/* Hooks into ALTER SERVER and CREATE USER MAPPING; called once by _PG_init. */
extern void account_init(void);

/*
 * Chooses the server for a model as role sees it.  server_name may be NULL.
 * Needs a transaction; raises the errors of the contract: 42704 no such server
 * or no provider serves the model, 42501 no USAGE, 42725 several servers match.
 * The account has no secret yet.
 */
extern Account *account_route(const char *model, const char *server_name, Oid role);

/*
 * Loads an account again by its server (InvalidOid and the provider's name for
 * a built-in one) for a job's owner, all rights checked anew, and its secret.
 * A missing secret is no error here: account->secret stays NULL and
 * account->secret_searched says where it was looked for.  Raises 42704 if the
 * server is gone, 42501 if the right to use it is.
 *
 * The account lives in the current context; its secret is zeroed when that
 * context is reset or deleted.
 */
extern Account *account_load(Oid server_oid, const char *provider_name, Oid role);

/* Fills in what every request of an account has: timeout, proxy, CA file, trust. */
extern void account_complete_request(HttpRequest *request, const Account *account);

/* Overwrites the secret with zeros; may be called any number of times. */
extern void account_wipe(Account *account);

/* One line that changes when the secret or the server's options do: hex of a SHA-256, for caching. */
extern char *account_fingerprint(const Account *account);

/*
 * Which account at the provider this is, as far as can be told from here: a
 * batch that is not found by another one may exist all the same.  A secret that
 * is sent as it is belongs to this; one that only fetches tokens does not.
 */
extern void account_identity(const Account *account, char identity[ACCOUNT_IDENTITY_SIZE]);

/*
 * Looks for the secret of an account whose other fields are filled in, and sets
 * secret, secret_source and secret_searched (credential_secret.c).
 */
extern void account_find_secret(Account *account);

/* NULL if value can be the secret of that mapping option, else what it should be.  Never quotes it. */
extern const char *account_secret_problem(const char *mapping_option, const char *value);

/*
 * Reads a file with a secret under the rules of ssl_key_file, at most limit
 * bytes, without line ends at its end.  NULL with *why set when it cannot be
 * used.  Never raises because of the file.  The caller zeroes the result.
 */
extern char *account_read_file(const char *path, size_t limit, const char **why);

/* Copy of a user's text, cut to what a message may quote, on a character boundary. */
extern char *account_excerpt(const char *text);

/* Is this option of a server reserved to superusers?  provider may be NULL. */
extern bool account_superuser_only(const BatchProvider *provider, const char *name);

/* Name of the first superuser-only option in a server's options, or NULL. */
extern const char *account_restricted_option(const BatchProvider *provider, List *options);

/* The provider that a server's options name, or NULL. */
extern const BatchProvider *account_provider(List *options);

#endif							/* DESS_ACCOUNT_H */
