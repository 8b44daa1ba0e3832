/*-------------------------------------------------------------------------
 *
 * address_stubs.c
 *		What the rules about addresses ask the administrator: all hosts are
 *		allowed, and no network is excepted from a proxy, for there is none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fuzz.h"
#include "runtime/guc.h"
#include "libpq/ifaddr.h"

/* It gets hosts in lower case, of visible characters. */
bool
guc_host_allowed(const char *host)
{
	MUST(host[0] != '\0' && strlen(host) <= 255);
	for (; *host != '\0'; host++)
		MUST(*host > ' ' && *host < 0x7F && !(*host >= 'A' && *host <= 'Z'));
	return true;
}

int
pg_range_sockaddr(const struct sockaddr_storage *addr, const struct sockaddr_storage *netaddr, const struct sockaddr_storage *netmask)
{
	abort();
}

int
pg_sockaddr_cidr_mask(struct sockaddr_storage *mask, char *numbits, int family)
{
	abort();
}
