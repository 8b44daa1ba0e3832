/*-------------------------------------------------------------------------
 *
 * test_digest.c
 *		Tests of src/digest.c: the vectors of FIPS 180-4, whole and in two parts.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "text/digest.h"
#include "tap.h"

static const struct
{
	const char *text;
	int			times;
	const char *hex;
}			vectors[] = {
	{"", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
	{"abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
	{"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1,
	"248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
	{"a", 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
};

int
main(void)
{
	Digest		digest;

	for (int i = 0; i < lengthof(vectors); i++)
	{
		char	   *text = repeat(vectors[i].text, vectors[i].times);
		size_t		length = strlen(text);

		for (int part = 0; part <= 4; part++)
		{
			size_t		head = length * part / 4;

			digest_sha256(text, head, text + head, length - head, &digest);
			is_text(digest_to_hex(&digest), vectors[i].hex, "vector %d cut at %zu", i, head);
		}
		arena_reset();
	}

	digest_sha256(NULL, 0, "abc", 3, &digest);
	is_text(digest_to_hex(&digest), vectors[1].hex, "no head");
	digest_sha256("abc", 3, NULL, 0, &digest);
	is_text(digest_to_hex(&digest), vectors[1].hex, "no tail");
	ok(digest_hash64(&digest) == UINT64CONST(0xba7816bf8f01cfea), "hash64 is the first eight bytes, the first one most significant");
	arena_reset();
	return done_testing();
}
