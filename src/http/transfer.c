/*-------------------------------------------------------------------------
 *
 * transfer.c
 *		One HTTP transfer: what libcurl reports while it runs, and its end.
 *
 * libcurl's callbacks run in the middle of libcurl: they must not raise, log,
 * palloc or run SQL.  They fill malloc'd buffers or files, note a failure in
 * the transfer and return short; http.c acts on that after libcurl returned.
 *
 * libcurl sends a request again by itself when a reused connection dies before
 * the first byte of a reply, whatever the method.  The server may have acted on
 * the first copy, and a POST may cost money, so the callback that libcurl calls
 * before each sending stops a POST's second one.  It comes back as HTTP_BROKEN.
 *
 * The same callback checks the address of reused connections: one opened for
 * a trusted request must not serve an untrusted one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "http/address.h"
#include "http/transfer.h"
#include "libpq/pqsignal.h"
#include "storage/fd.h"

/* CURLOPT_PREREQFUNCTION, which double sending and addresses depend on */
#if LIBCURL_VERSION_NUM < 0x075000
#error "dess_batch needs libcurl 7.80 or later"
#endif

#define DEFAULT_REPLY_LIMIT (16 * 1024 * 1024)
#define HEAD_LIMIT (64 * 1024)

static int	open_sockets = 0;

void
curl_enter(sigset_t *saved)
{
	pthread_sigmask(SIG_BLOCK, &BlockSig, saved);
}

void
curl_leave(const sigset_t *saved)
{
	pthread_sigmask(SIG_SETMASK, saved, NULL);
}

int
transfer_open_sockets(void)
{
	return open_sockets;
}

void
transfer_fail(HttpTransfer *transfer, HttpFailure failure, const char *format,...)
{
	va_list		args;

	if (transfer->reply.failure != HTTP_OK)
		return;

	transfer->reply.failure = failure;
	va_start(args, format);
	vsnprintf(transfer->message, sizeof(transfer->message), format, args);
	va_end(args);
}

/* ----------
 * Buffers
 * ----------
 */

/* A reply can be an access token, so it is wiped. */
static void
buffer_free(Buffer *buffer)
{
	if (buffer->data != NULL)
		explicit_bzero(buffer->data, buffer->size);
	free(buffer->data);
	memset(buffer, 0, sizeof(*buffer));
}

/* Makes room for that many bytes in all.  False when out of memory. */
static bool
buffer_grow(Buffer *buffer, size_t needed)
{
	Buffer		larger;

	/* not realloc, which would leave the old bytes lying about */
	larger.length = buffer->length;
	larger.size = Max(needed, Max(1024, buffer->size * 2));
	larger.data = malloc(larger.size);
	if (larger.data == NULL)
		return false;
	if (buffer->length > 0)
		memcpy(larger.data, buffer->data, buffer->length);

	buffer_free(buffer);
	*buffer = larger;
	return true;
}

/* Appends and puts a NUL behind.  False when out of memory. */
static bool
buffer_append(Buffer *buffer, const char *data, size_t length)
{
	size_t		needed = buffer->length + length + 1;

	if (needed > buffer->size && !buffer_grow(buffer, needed))
		return false;

	memcpy(buffer->data + buffer->length, data, length);
	buffer->length += length;
	buffer->data[buffer->length] = '\0';
	return true;
}

/* ----------
 * What libcurl calls
 * ----------
 */

size_t
transfer_receive_head(char *data, size_t size, size_t count, void *arg)
{
	HttpTransfer *transfer = arg;
	Buffer	   *head = &transfer->head;
	size_t		total = size * count;
	size_t		length = strnlen(data, total);
	char	   *colon = memchr(data, ':', length);
	size_t		start;

	/* each reply has a head, also an interim one like 100 Continue */
	if (length >= 5 && memcmp(data, "HTTP/", 5) == 0)
	{
		head->length = 0;
		return total;
	}

	while (length > 0 && isspace((unsigned char) data[length - 1]))
		length--;

	/* no trailers, no continued lines, no more than anybody needs */
	if (transfer->body_began || colon == NULL || colon == data || data[0] == ' ' ||
		data[0] == '\t' || head->length + length + 1 > HEAD_LIMIT)
		return total;

	start = head->length;
	if (!buffer_append(head, data, length) || !buffer_append(head, "", 1))
	{
		transfer_fail(transfer, HTTP_LOCAL, "out of memory");
		return 0;
	}

	for (size_t i = start; i < start + length; i++)
	{
		unsigned char c = head->data[i];

		if (i < start + (colon - data))
			head->data[i] = pg_ascii_tolower(c);
		else if (c != '\t' && (c < ' ' || c >= 0x7F))
			head->data[i] = '?';
	}
	return total;
}

static bool
open_sink(HttpTransfer *transfer)
{
	const char *path = transfer->request.sink_file;
	int64		offset = transfer->request.sink_offset;
	struct stat status;

	transfer->sink_fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | PG_BINARY, S_IRUSR | S_IWUSR);
	if (transfer->sink_fd < 0)
		transfer_fail(transfer, HTTP_LOCAL, "could not create file \"%s\": %m", path);
	else if (fstat(transfer->sink_fd, &status) != 0)
		transfer_fail(transfer, HTTP_LOCAL, "could not stat file \"%s\": %m", path);
	else if (status.st_size < offset)
		transfer_fail(transfer, HTTP_LOCAL, "file \"%s\" is shorter than expected", path);
	else if (ftruncate(transfer->sink_fd, offset) != 0 ||
			 lseek(transfer->sink_fd, offset, SEEK_SET) != offset)
		transfer_fail(transfer, HTTP_LOCAL, "could not truncate file \"%s\": %m", path);
	return transfer->reply.failure == HTTP_OK;
}

static bool
write_sink(HttpTransfer *transfer, const char *data, size_t length)
{
	int64		limit = transfer->request.sink_limit;

	if (limit > 0 &&
		transfer->request.sink_offset + transfer->reply.sink_length + (int64) length > limit)
	{
		transfer_fail(transfer, HTTP_TOO_LARGE,
					  "the reply is larger than " INT64_FORMAT " bytes", limit);
		return false;
	}
	if (transfer->sink_fd < 0 && !open_sink(transfer))
		return false;

	while (length > 0)
	{
		ssize_t		written;

		errno = 0;
		written = write(transfer->sink_fd, data, length);
		if (written <= 0)
		{
			/* no error is how a full disk can look */
			if (errno == 0)
				errno = ENOSPC;
			transfer_fail(transfer, HTTP_LOCAL, "could not write file \"%s\": %m",
						  transfer->request.sink_file);
			return false;
		}
		data += written;
		length -= written;
		transfer->reply.sink_length += written;
	}
	return true;
}

static bool
keep_body(HttpTransfer *transfer, const char *data, size_t length)
{
	size_t		limit = transfer->request.reply_limit;

	if (limit == 0)
		limit = DEFAULT_REPLY_LIMIT;
	if (length > limit - transfer->body.length)
	{
		transfer_fail(transfer, HTTP_TOO_LARGE, "the reply is larger than %zu bytes", limit);
		return false;
	}
	if (!buffer_append(&transfer->body, data, length))
	{
		transfer_fail(transfer, HTTP_LOCAL, "out of memory");
		return false;
	}
	return true;
}

static bool
goes_to_sink(HttpTransfer *transfer)
{
	long		status = 0;

	curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
	return transfer->request.sink_file != NULL && status >= 200 && status <= 299;
}

size_t
transfer_receive_body(char *data, size_t size, size_t count, void *arg)
{
	HttpTransfer *transfer = arg;
	size_t		length = size * count;
	bool		taken;

	transfer->body_began = true;
	if (goes_to_sink(transfer))
		taken = write_sink(transfer, data, length);
	else
		taken = keep_body(transfer, data, length);
	return taken ? length : 0;
}

size_t
transfer_send_body_file(char *buffer, size_t size, size_t count, void *arg)
{
	HttpTransfer *transfer = arg;
	const HttpRequest *request = &transfer->request;
	size_t		wanted = Min(size * count, request->body_file_length - transfer->body_position);
	ssize_t		got;

	if (wanted == 0)
		return 0;

	got = pread(transfer->body_fd, buffer, wanted, request->body_offset + transfer->body_position);
	if (got > 0)
	{
		transfer->body_position += got;
		return got;
	}

	if (got < 0)
		transfer_fail(transfer, HTTP_LOCAL, "could not read file \"%s\": %m", request->body_file);
	else
		transfer_fail(transfer, HTTP_LOCAL, "file \"%s\" is shorter than expected", request->body_file);
	return CURL_READFUNC_ABORT;
}

int
transfer_seek_body_file(void *arg, curl_off_t offset, int origin)
{
	HttpTransfer *transfer = arg;

	if (origin != SEEK_SET)
		return CURL_SEEKFUNC_CANTSEEK;
	transfer->body_position = offset;
	return CURL_SEEKFUNC_OK;
}

curl_socket_t
transfer_open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	HttpTransfer *transfer = arg;
	curl_socket_t fd;

	if (!transfer->request.trusted && !transfer->through_proxy && address_is_local(&address->addr))
	{
		transfer->address_refused = true;
		return CURL_SOCKET_BAD;
	}

	fd = socket(address->family, address->socktype, address->protocol);
	if (fd != CURL_SOCKET_BAD)
	{
		(void) fcntl(fd, F_SETFD, FD_CLOEXEC);
		open_sockets++;
	}
	return fd;
}

/* Connections outlive the transfer that opened them, hence no argument. */
int
transfer_close_socket(void *arg, curl_socket_t fd)
{
	open_sockets--;
	return close(fd);
}

/* Called each time that a connection is ready and the request is about to be sent. */
int
transfer_before_sending(void *arg, char *remote_address, char *local_address, int remote_port, int local_port)
{
	HttpTransfer *transfer = arg;

	if (!transfer->request.trusted && !transfer->through_proxy &&
		address_text_is_local(remote_address))
	{
		transfer->address_refused = true;
		return CURL_PREREQFUNC_ABORT;
	}

	if (transfer->started && strcmp(transfer->request.method, "POST") == 0)
	{
		transfer->resend_refused = true;
		return CURL_PREREQFUNC_ABORT;
	}

	if (!transfer->started)
		curl_easy_getinfo(transfer->easy, CURLINFO_REQUEST_SIZE, &transfer->size_before);
	transfer->started = true;
	return CURL_PREREQFUNC_OK;
}

int64
transfer_progress(HttpTransfer *transfer)
{
	curl_off_t	up = 0;
	curl_off_t	down = 0;
	long		head_up = 0;
	long		head_down = 0;

	curl_easy_getinfo(transfer->easy, CURLINFO_SIZE_UPLOAD_T, &up);
	curl_easy_getinfo(transfer->easy, CURLINFO_SIZE_DOWNLOAD_T, &down);
	curl_easy_getinfo(transfer->easy, CURLINFO_REQUEST_SIZE, &head_up);
	curl_easy_getinfo(transfer->easy, CURLINFO_HEADER_SIZE, &head_down);
	return up + down + head_up + head_down;
}

/* ----------
 * The end
 * ----------
 */

/* Can the server have seen a byte of the request? */
static bool
was_sent(HttpTransfer *transfer)
{
	curl_off_t	up = 0;
	long		size = 0;

	curl_easy_getinfo(transfer->easy, CURLINFO_REQUEST_SIZE, &size);
	curl_easy_getinfo(transfer->easy, CURLINFO_SIZE_UPLOAD_T, &up);
	return transfer->started && (size > transfer->size_before || up > 0);
}

/*
 * Is the announced body here to its last byte?  Then the reply counts, whatever
 * went wrong afterwards: some servers answer before they have read a request,
 * and reset it.
 */
static bool
reply_is_whole(HttpTransfer *transfer)
{
	curl_off_t	announced = -1;
	curl_off_t	received = 0;

	curl_easy_getinfo(transfer->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &announced);
	curl_easy_getinfo(transfer->easy, CURLINFO_SIZE_DOWNLOAD_T, &received);
	return transfer->body_began && announced > 0 && received == announced;
}

/* Notes libcurl's own words: printable ASCII, and without a URL's query. */
static void
fail_in_curls_words(HttpTransfer *transfer, HttpFailure failure, CURLcode code)
{
	const char *source = transfer->curl_message;
	char		text[200];
	size_t		length = 0;

	if (source[0] == '\0')
		source = curl_easy_strerror(code);

	while (*source != '\0' && length < sizeof(text) - 1)
	{
		unsigned char c = *source++;

		if (c == '?')
			source += strcspn(source, " \t\r\n'\"");
		else
			text[length++] = (c >= ' ' && c < 0x7F) ? c : ' ';
	}
	while (length > 0 && (text[length - 1] == ' ' || text[length - 1] == '.'))
		length--;
	text[length] = '\0';

	transfer_fail(transfer, failure, "%s", text);
}

static void
judge_failure(HttpTransfer *transfer, CURLcode code)
{
	if (transfer->address_refused &&
		(code == CURLE_COULDNT_CONNECT || code == CURLE_ABORTED_BY_CALLBACK))
		transfer_fail(transfer, HTTP_REFUSED_ADDRESS,
					  "the host has a loopback or link-local address, which is allowed only for servers owned by a superuser");
	else if (code == CURLE_OUT_OF_MEMORY)
		transfer_fail(transfer, HTTP_LOCAL, "out of memory");
	else if (!was_sent(transfer))
		fail_in_curls_words(transfer, HTTP_NOT_SENT, code);
	else if (transfer->resend_refused)
		transfer_fail(transfer, HTTP_BROKEN, "the connection was closed before a reply came");
	else
		fail_in_curls_words(transfer, HTTP_BROKEN, code);
}

void
transfer_judge(HttpTransfer *transfer, CURLcode code)
{
	long		status = 0;

	curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
	if (transfer->started && status >= 200 && status <= 999)
		transfer->reply.status = status;

	if (code != CURLE_OK && !reply_is_whole(transfer))
		judge_failure(transfer, code);
	else if (transfer->reply.status == 0)
		transfer_fail(transfer, HTTP_BROKEN, "the server sent no HTTP status");
	else if (goes_to_sink(transfer) && transfer->sink_fd < 0)
		(void) open_sink(transfer);
}

void
transfer_release(HttpTransfer *transfer)
{
	sigset_t	saved;
	struct curl_slist *header;

	curl_enter(&saved);
	if (transfer->multi != NULL)
		curl_multi_remove_handle(transfer->multi, transfer->easy);
	transfer->multi = NULL;
	if (transfer->easy != NULL)
		curl_easy_cleanup(transfer->easy);
	transfer->easy = NULL;
	curl_leave(&saved);

	curl_mime_free(transfer->mime);
	transfer->mime = NULL;

	for (header = transfer->headers; header != NULL; header = header->next)
		explicit_bzero(header->data, strlen(header->data));
	curl_slist_free_all(transfer->headers);
	transfer->headers = NULL;

	if (transfer->body_fd >= 0)
		close(transfer->body_fd);
	transfer->body_fd = -1;

	/* some file systems report a failed write only here */
	if (transfer->sink_fd >= 0 && close(transfer->sink_fd) != 0)
		transfer_fail(transfer, HTTP_LOCAL, "could not close file \"%s\": %m",
					  transfer->request.sink_file);
	transfer->sink_fd = -1;

	for (; transfer->reserved_files > 0; transfer->reserved_files--)
		ReleaseExternalFD();
}

void
transfer_destroy(HttpTransfer *transfer)
{
	HttpRequest *request = &transfer->request;

	transfer_release(transfer);
	buffer_free(&transfer->head);
	buffer_free(&transfer->body);

	if (request->body != NULL)
		explicit_bzero(unconstify(char *, request->body), request->body_length);
	if (request->url != NULL)
		explicit_bzero(unconstify(char *, request->url), strlen(request->url));
	request->body = NULL;
	request->url = NULL;
}
