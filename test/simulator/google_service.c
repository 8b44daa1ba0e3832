/*
 * google_service.c
 *		Start, end and control of all that plays Google.
 */
#include "google_job.h"

#include "providers.h"

void
google_start(void)
{
	google_runner_start();
}

/* Credential files name the port, so they come once it is known. */
void
google_write_files(void)
{
	credentials_write_files();
}

static void
forget(void)
{
	google_runner_stop();
	storage_reset();
	gemini_reset();
}

void
google_stop(void)
{
	forget();
	tokens_clear();
	crypto_stop();
}

/* Forgets objects, jobs and tokens; keys and credential files stay good. */
void
google_reset(void)
{
	forget();
	credentials_reset();
	google_runner_start();
}

void
google_stats(StrBuf *b)
{
	pthread_mutex_lock(&google_lock);
	jw_int(b, "objects", storage_objects());
	jw_int(b, "vertex_active", jobs_active(BY_VERTEX));
	jw_int(b, "gemini_active", jobs_active(BY_GEMINI));
	pthread_mutex_unlock(&google_lock);
	jw_key(b, "access_tokens");
	google_tokens(b);
}

void
google_tokens(StrBuf *b)
{
	tokens_write(b);
}

/* {"revoke": "all"}, "user" (the refresh token), or the end of a token. */
bool
google_revoke(const cJSON *json, char *why, size_t size)
{
	const char *what = json_str(json, "revoke");

	if (what == NULL || cJSON_GetArraySize(json) != 1)
	{
		snprintf(why, size, "{\"revoke\": \"all\", \"user\" or the end of a token} is expected");
		return false;
	}
	if (strcmp(what, "user") == 0)
		credentials_revoke_user();
	else
		tokens_revoke(strcmp(what, "all") == 0 ? NULL : what);
	return true;
}
