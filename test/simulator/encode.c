/*
 * encode.c
 *		Replies in an encoding that nobody asked for.
 *
 * The gzip format (RFC 1952) with blocks that are stored, not compressed
 * (RFC 1951, 3.2.4): any decoder takes it, and no library is needed.
 */
#include <unistd.h>

#include "http.h"
#include "sim.h"

#define BLOCK_BYTES	65535

static uint32_t
crc32_of(const unsigned char *data, size_t len)
{
	uint32_t	crc = 0xFFFFFFFF;

	for (size_t i = 0; i < len; i++)
	{
		crc ^= data[i];
		for (int bit = 0; bit < 8; bit++)
			crc = (crc >> 1) ^ ((crc & 1) ? 0xEDB88320 : 0);
	}
	return ~crc;
}

static void
put_number(StrBuf *out, uint32_t number, int bytes)
{
	for (int i = 0; i < bytes; i++)
		buf_char(out, (char) (number >> (8 * i)));
}

static void
put_gzip(StrBuf *out, const char *data, size_t len)
{
	size_t		done = 0;

	buf_add(out, "\x1f\x8b\x08\0\0\0\0\0\0\xff", 10);
	do
	{
		size_t		n = len - done < BLOCK_BYTES ? len - done : BLOCK_BYTES;

		buf_char(out, done + n == len);
		put_number(out, (uint32_t) n, 2);
		put_number(out, ~(uint32_t) n, 2);
		buf_add(out, data + done, n);
		done += n;
	} while (done < len);
	put_number(out, crc32_of((const unsigned char *) data, len), 4);
	put_number(out, (uint32_t) len, 4);
}

/* What the reply takes from a file stands in its body afterwards. */
static void
read_file(Reply *reply)
{
	char		block[8192];
	int64_t		at = reply->fd_from;
	ssize_t		n;

	if (reply->fd < 0)
		return;
	while (reply->fd_bytes > 0 &&
		   (n = pread(reply->fd, block, reply->fd_bytes < (int64_t) sizeof(block) ? (size_t) reply->fd_bytes : sizeof(block), at)) > 0)
	{
		buf_add(&reply->body, block, (size_t) n);
		at += n;
		reply->fd_bytes -= n;
	}
	close(reply->fd);
	reply->fd = -1;
	reply->fd_bytes = 0;
}

/* Puts a text before the reply, and encodes all of it; either may be absent. */
void
reply_encode(Reply *reply, const char *prefix, bool gzip)
{
	StrBuf		whole = {0};

	if (prefix == NULL && !gzip)
		return;
	read_file(reply);
	if (prefix != NULL)
		buf_str(&whole, prefix);
	buf_add(&whole, reply->body.data ? reply->body.data : "", reply->body.len);
	buf_reset(&reply->body);
	if (gzip)
	{
		put_gzip(&reply->body, whole.data ? whole.data : "", whole.len);
		reply_header(reply, "Content-Encoding", "gzip");
	}
	else
		buf_add(&reply->body, whole.data, whole.len);
	buf_free(&whole);
}
