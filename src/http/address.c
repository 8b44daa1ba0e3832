/*-------------------------------------------------------------------------
 *
 * address.c
 *		Which addresses a request may go to, and through which proxy.
 *
 * URLs are taken apart by libcurl's own parser, so that what is checked here
 * is what libcurl will connect to.  A name says little: what it resolves to is
 * checked again by http.c when a connection is opened or reused.
 *
 * The environment's proxy is chosen here and handed to libcurl explicitly,
 * because libcurl does not tell whether a connection goes to a proxy, whose
 * address (often a local one) is not subject to these rules.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <netinet/in.h>

#include "http/address.h"
#include "runtime/guc.h"
#include "libpq/ifaddr.h"

#define MAX_HOST_LENGTH 255

typedef struct UrlParts
{
	char		scheme[16];
	char		host[MAX_HOST_LENGTH + 1];	/* lower case, no brackets, no final dot */
} UrlParts;

/* Where clouds that do not use a link-local address tell a machine its credentials. */
static const char *const metadata_servers[] = {
	"100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"
};

static bool
is_metadata_server(int family, const void *address, size_t length)
{
	for (int i = 0; i < lengthof(metadata_servers); i++)
	{
		struct in6_addr known;

		if (inet_pton(family, metadata_servers[i], &known) == 1 &&
			memcmp(&known, address, length) == 0)
			return true;
	}
	return false;
}

static bool
ipv4_is_local(const void *bytes)
{
	uint32		address;

	memcpy(&address, bytes, sizeof(address));
	if (is_metadata_server(AF_INET, &address, sizeof(address)))
		return true;
	address = ntohl(address);
	return (address >> 24) == 127 || (address >> 24) == 0 || (address >> 16) == 0xA9FE;
}

static bool
ipv6_is_local(const struct in6_addr *address)
{
	/* 64:ff9b::/96, behind which a NAT64 gateway has all of IPv4 */
	static const uint8 nat64[12] = {0x00, 0x64, 0xFF, 0x9B};

	if (IN6_IS_ADDR_UNSPECIFIED(address) || IN6_IS_ADDR_LOOPBACK(address) ||
		IN6_IS_ADDR_LINKLOCAL(address) ||
		is_metadata_server(AF_INET6, address, sizeof(*address)))
		return true;
	return (IN6_IS_ADDR_V4MAPPED(address) || IN6_IS_ADDR_V4COMPAT(address) ||
			memcmp(address->s6_addr, nat64, sizeof(nat64)) == 0) &&
		ipv4_is_local(&address->s6_addr[12]);
}

bool
address_is_local(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET)
		return ipv4_is_local(&((const struct sockaddr_in *) address)->sin_addr.s_addr);
	if (address->sa_family == AF_INET6)
		return ipv6_is_local(&((const struct sockaddr_in6 *) address)->sin6_addr);
	return true;
}

/* Reads a numeric address.  False if the text is none. */
static bool
parse_literal(const char *text, struct sockaddr_storage *address)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *) address;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *) address;

	memset(address, 0, sizeof(*address));
	if (inet_pton(AF_INET, text, &v4->sin_addr) == 1)
	{
		address->ss_family = AF_INET;
		return true;
	}
	if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1)
	{
		address->ss_family = AF_INET6;
		return true;
	}
	return false;
}

bool
address_text_is_local(const char *text)
{
	struct sockaddr_storage address;

	return !parse_literal(text, &address) || address_is_local((struct sockaddr *) &address);
}

/* Copies one part of a URL, in lower case.  False if it is missing or too long. */
static bool
copy_part(CURLU *url, CURLUPart part, char *buffer, size_t size)
{
	char	   *text;
	size_t		length;
	bool		fits;

	if (curl_url_get(url, part, &text, 0) != CURLUE_OK)
		return false;

	length = strlen(text);
	fits = length < size;
	if (fits)
	{
		for (size_t i = 0; i <= length; i++)
			buffer[i] = pg_ascii_tolower((unsigned char) text[i]);
	}
	curl_free(text);
	return fits;
}

/* Fills in the parts.  Returns why the URL cannot be used, or NULL. */
static const char *
parse_url(const char *text, UrlParts *parts)
{
	CURLU	   *url = curl_url();
	CURLUcode	code;
	bool		complete;
	size_t		length;

	if (url == NULL)
		return "out of memory";

	code = curl_url_set(url, CURLUPART_URL, text,
						CURLU_NON_SUPPORT_SCHEME | CURLU_DISALLOW_USER);
	complete = code == CURLUE_OK &&
		copy_part(url, CURLUPART_SCHEME, parts->scheme, sizeof(parts->scheme)) &&
		copy_part(url, CURLUPART_HOST, parts->host, sizeof(parts->host));
	curl_url_cleanup(url);

	if (code == CURLUE_USER_NOT_ALLOWED)
		return "a URL with a user name or password is not allowed";
	if (!complete)
		return "the URL is malformed";

	length = strlen(parts->host);
	if (parts->host[0] == '[' && parts->host[length - 1] == ']')
	{
		length -= 2;
		memmove(parts->host, parts->host + 1, length);
	}
	while (length > 0 && parts->host[length - 1] == '.')
		length--;
	parts->host[length] = '\0';

	if (length == 0)
		return "the URL has no host";
	for (size_t i = 0; i < length; i++)
	{
		if (parts->host[i] <= ' ' || parts->host[i] >= 0x7F)
			return "the URL's host has characters other than visible ASCII";
	}
	return NULL;
}

/* Moves to the next entry of a list separated by commas or blanks.  False at its end. */
static bool
next_entry(const char **list, const char **entry, size_t *length)
{
	*entry = *list + strspn(*list, ", \t\r\n");
	*length = strcspn(*entry, ", \t\r\n");
	*list = *entry + *length;
	return *length > 0;
}

static bool
host_ends_with(const char *host, const char *suffix, size_t length)
{
	size_t		host_length = strlen(host);
	const char *tail;

	if (host_length < length)
		return false;
	tail = host + host_length - length;
	return pg_strncasecmp(tail, suffix, length) == 0 &&
		(tail == host || tail[-1] == '.');
}

static bool
host_is_local(const char *host)
{
	struct sockaddr_storage address;

	if (host_ends_with(host, "localhost", strlen("localhost")))
		return true;
	return parse_literal(host, &address) && address_is_local((struct sockaddr *) &address);
}

char *
http_check_url(const char *url, bool trusted)
{
	UrlParts	parts;
	const char *problem = parse_url(url, &parts);

	if (problem != NULL)
		return pstrdup(problem);

	if (strcmp(parts.scheme, "https") != 0 && strcmp(parts.scheme, "http") != 0)
		return psprintf("scheme \"%s\" is not allowed", parts.scheme);
	if (strcmp(parts.scheme, "http") == 0 && !trusted)
		return pstrdup("scheme \"http\" is allowed only for servers owned by a superuser");
	if (!guc_host_allowed(parts.host))
		return psprintf("host \"%s\" is not among those of dess_batch.allowed_hosts", parts.host);
	if (!trusted && host_is_local(parts.host))
		return psprintf("the loopback or link-local host \"%s\" is allowed only for servers owned by a superuser",
						parts.host);

	return NULL;
}

/* Does the host lie in a network such as 10.0.0.0/8? */
static bool
host_in_network(const char *host, const char *entry, size_t length)
{
	const char *slash = memchr(entry, '/', length);
	struct sockaddr_storage address;
	struct sockaddr_storage network;
	struct sockaddr_storage mask;
	char		text[INET6_ADDRSTRLEN];
	char		bits[8];

	if (slash == NULL || slash - entry >= sizeof(text) ||
		entry + length - slash - 1 >= sizeof(bits))
		return false;
	strlcpy(text, entry, slash - entry + 1);
	strlcpy(bits, slash + 1, entry + length - slash);

	return parse_literal(host, &address) && parse_literal(text, &network) &&
		address.ss_family == network.ss_family &&
		pg_sockaddr_cidr_mask(&mask, bits, network.ss_family) == 0 &&
		pg_range_sockaddr(&address, &network, &mask) != 0;
}

/* Is the host among those that the environment excepts from its proxy? */
static bool
environment_excepts(const char *host)
{
	const char *list = getenv("no_proxy");
	const char *entry;
	size_t		length;

	if (list == NULL)
		list = getenv("NO_PROXY");
	if (list == NULL)
		return false;

	while (next_entry(&list, &entry, &length))
	{
		if (length == 1 && entry[0] == '*')
			return true;
		if (host_in_network(host, entry, length))
			return true;
		if (entry[0] == '.')
		{
			entry++;
			length--;
		}
		if (length > 0 && host_ends_with(host, entry, length))
			return true;
	}
	return false;
}

/* HTTP_PROXY in capitals is left out, as everywhere: a CGI client can set it. */
static const char *
environment_proxy(const char *scheme)
{
	static const char *const for_https[] = {"https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"};
	static const char *const for_http[] = {"http_proxy", "all_proxy", "ALL_PROXY"};
	bool		https = strcmp(scheme, "https") == 0;
	const char *const *names = https ? for_https : for_http;
	int			count = https ? lengthof(for_https) : lengthof(for_http);

	for (int i = 0; i < count; i++)
	{
		const char *value = getenv(names[i]);

		if (value != NULL && value[0] != '\0')
			return value;
	}
	return "";
}

const char *
address_choose_proxy(const HttpRequest *request)
{
	UrlParts	parts;

	if (request->no_proxy)
		return "";
	if (request->proxy != NULL)
		return request->proxy;
	if (parse_url(request->url, &parts) != NULL || environment_excepts(parts.host))
		return "";
	return environment_proxy(parts.scheme);
}
