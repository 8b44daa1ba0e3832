/*-------------------------------------------------------------------------
 *
 * fuzz_address.c
 *		Addresses, as servers send them in their replies.
 *
 * The first byte says whether they come from a trusted server.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <curl/curl.h>
#include <netdb.h>

#include "fuzz.h"
#include "http/address.h"

/* Does the system take the host of this URL for an address of this machine? */
static bool
reaches_this_machine(const char *text)
{
	struct addrinfo hints = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM};
	struct addrinfo *address;
	CURLU	   *url = curl_url();
	char	   *host = NULL;
	bool		result = false;

	if (curl_url_set(url, CURLUPART_URL, text, CURLU_NON_SUPPORT_SCHEME) == CURLUE_OK &&
		curl_url_get(url, CURLUPART_HOST, &host, 0) == CURLUE_OK)
	{
		size_t		length = strlen(host);
		char	   *bare = host;

		if (bare[0] == '[' && bare[length - 1] == ']')
		{
			bare[length - 1] = '\0';
			bare++;
		}
		if (getaddrinfo(bare, NULL, &hints, &address) == 0)
		{
			result = address_is_local(address->ai_addr);
			freeaddrinfo(address);
		}
	}
	curl_free(host);
	curl_url_cleanup(url);
	return result;
}

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	HttpRequest request = {0};
	char	   *text;
	bool		trusted;
	char	   *problem;

	if (size < 1)
		return 0;
	trusted = data[0] & 1;
	text = palloc(size);
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';

	problem = http_check_url(text, trusted);
	MUST(problem != NULL || trusted || !reaches_this_machine(text));
	request.url = text;
	MUST(address_choose_proxy(&request)[0] == '\0');
	(void) address_text_is_local(text);
	arena_reset();
	return 0;
}
