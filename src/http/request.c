/*-------------------------------------------------------------------------
 *
 * request.c
 *		What libcurl is told of a transfer: the request and its rules.
 *
 * A body in a file is read while it is sent, so an upload of any size takes
 * the memory of one buffer.  All lengths are known beforehand: nothing is sent
 * in chunks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "http/address.h"
#include "http/transfer.h"
#include "storage/fd.h"

#define USER_AGENT "dess_batch/1.0"
#define SINK_BUFFER_SIZE (512 * 1024)

#define set_option(transfer, option, value) \
	(curl_easy_setopt((transfer)->easy, option, value) == CURLE_OK)

static void
add_header(HttpTransfer *transfer, const char *header)
{
	struct curl_slist *list = curl_slist_append(transfer->headers, header);

	if (list == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	transfer->headers = list;
}

static void
copy_headers(HttpTransfer *transfer, const HttpRequest *request)
{
	bool		has_type = false;
	ListCell   *cell;

	foreach(cell, request->headers)
	{
		const char *header = lfirst(cell);

		if (strpbrk(header, "\r\n") != NULL)
			transfer_fail(transfer, HTTP_LOCAL, "a header of the request contains a line break");
		if (pg_strncasecmp(header, "content-type:", strlen("content-type:")) == 0)
			has_type = true;
		add_header(transfer, header);
	}

	/* none is asked for, so that lengths and ranges are those of the data; some servers encode all the same */
	add_header(transfer, "Accept-Encoding: identity");
	/* no round trip for permission to send, and no type that nobody asked for */
	add_header(transfer, "Expect:");
	if (!has_type && request->parts == NIL)
		add_header(transfer, "Content-Type:");
}

static char *
copy_string(const char *string)
{
	return string ? pstrdup(string) : NULL;
}

static List *
copy_parts(List *parts)
{
	List	   *copies = NIL;
	ListCell   *cell;

	foreach(cell, parts)
	{
		const HttpPart *part = lfirst(cell);
		HttpPart   *copy = palloc(sizeof(HttpPart));

		copy->name = copy_string(part->name);
		copy->text = copy_string(part->text);
		copy->filename = copy_string(part->filename);
		copy->content_type = copy_string(part->content_type);
		copies = lappend(copies, copy);
	}
	return copies;
}

void
transfer_copy_request(HttpTransfer *transfer, const HttpRequest *request)
{
	HttpRequest *copy = &transfer->request;

	/* nothing of the caller's may be left in what transfer_destroy() wipes */
	*copy = *request;
	copy->headers = NIL;
	copy->url = NULL;
	copy->body = NULL;

	copy->method = pstrdup(request->method);
	copy->url = pstrdup(request->url);
	if (request->body != NULL)
	{
		char	   *body = palloc_extended(request->body_length + 1, MCXT_ALLOC_HUGE);

		memcpy(body, request->body, request->body_length);
		copy->body = body;
	}
	copy->body_file = copy_string(request->body_file);
	copy->parts = copy_parts(request->parts);
	copy->sink_file = copy_string(request->sink_file);
	copy->ca_file = copy_string(request->ca_file);
	copy->proxy = copy_string(request->proxy);
	copy_headers(transfer, request);
}

bool
transfer_reserve_files(HttpTransfer *transfer, bool force)
{
	int			needed = (transfer->request.body_file != NULL) + (transfer->request.sink_file != NULL);

	while (transfer->reserved_files < needed)
	{
		if (force)
			ReserveExternalFD();
		else if (!AcquireExternalFD())
			break;
		transfer->reserved_files++;
	}
	if (transfer->reserved_files == needed)
		return true;

	/* one that another transfer may be able to work with */
	for (; transfer->reserved_files > 0; transfer->reserved_files--)
		ReleaseExternalFD();
	return false;
}

static bool
open_body_file(HttpTransfer *transfer)
{
	const HttpRequest *request = &transfer->request;
	struct stat status;

	transfer->body_fd = open(request->body_file, O_RDONLY | O_CLOEXEC | PG_BINARY, 0);
	if (transfer->body_fd < 0)
		transfer_fail(transfer, HTTP_LOCAL, "could not open file \"%s\": %m", request->body_file);
	else if (fstat(transfer->body_fd, &status) < 0)
		transfer_fail(transfer, HTTP_LOCAL, "could not stat file \"%s\": %m", request->body_file);
	else if (status.st_size - request->body_offset < request->body_file_length)
		transfer_fail(transfer, HTTP_LOCAL, "file \"%s\" is shorter than expected", request->body_file);
	return transfer->reply.failure == HTTP_OK;
}

static bool
describe_part(HttpTransfer *transfer, const HttpPart *part)
{
	curl_mimepart *mime = curl_mime_addpart(transfer->mime);
	CURLcode	code;

	if (mime == NULL || curl_mime_name(mime, part->name) != CURLE_OK)
		return false;
	if (part->filename != NULL && curl_mime_filename(mime, part->filename) != CURLE_OK)
		return false;
	if (part->content_type != NULL && curl_mime_type(mime, part->content_type) != CURLE_OK)
		return false;

	if (part->text != NULL)
		code = curl_mime_data(mime, part->text, CURL_ZERO_TERMINATED);
	else
		code = curl_mime_data_cb(mime, transfer->request.body_file_length,
								 transfer_send_body_file, transfer_seek_body_file, NULL, transfer);
	return code == CURLE_OK;
}

static bool
describe_parts(HttpTransfer *transfer)
{
	ListCell   *cell;

	transfer->mime = curl_mime_init(transfer->easy);
	if (transfer->mime == NULL)
		return false;
	foreach(cell, transfer->request.parts)
	{
		if (!describe_part(transfer, lfirst(cell)))
			return false;
	}
	return set_option(transfer, CURLOPT_MIMEPOST, transfer->mime);
}

static bool
describe_file_body(HttpTransfer *transfer)
{
	bool		post = strcmp(transfer->request.method, "POST") == 0;
	curl_off_t	length = transfer->request.body_file_length;

	return set_option(transfer, post ? CURLOPT_POST : CURLOPT_UPLOAD, 1L) &&
		set_option(transfer, post ? CURLOPT_POSTFIELDSIZE_LARGE : CURLOPT_INFILESIZE_LARGE, length) &&
		set_option(transfer, CURLOPT_READFUNCTION, transfer_send_body_file) &&
		set_option(transfer, CURLOPT_READDATA, transfer) &&
		set_option(transfer, CURLOPT_SEEKFUNCTION, transfer_seek_body_file) &&
		set_option(transfer, CURLOPT_SEEKDATA, transfer);
}

/* Method and body.  An empty body of POST and PUT has a Content-Length of 0. */
static bool
describe_body(HttpTransfer *transfer)
{
	const HttpRequest *request = &transfer->request;
	bool		sends = strcmp(request->method, "POST") == 0 || strcmp(request->method, "PUT") == 0;
	bool		described;

	if (request->parts != NIL)
		described = describe_parts(transfer);
	else if (request->body_file != NULL)
		described = describe_file_body(transfer);
	else if (request->body != NULL || sends)
		described = set_option(transfer, CURLOPT_POSTFIELDSIZE_LARGE,
							   (curl_off_t) (request->body ? request->body_length : 0)) &&
			set_option(transfer, CURLOPT_POSTFIELDS, request->body ? request->body : "");
	else
		described = set_option(transfer, CURLOPT_HTTPGET, 1L);

	return described && set_option(transfer, CURLOPT_CUSTOMREQUEST, request->method);
}

static bool
describe_reply(HttpTransfer *transfer)
{
	return set_option(transfer, CURLOPT_HEADERFUNCTION, transfer_receive_head) &&
		set_option(transfer, CURLOPT_HEADERDATA, transfer) &&
		set_option(transfer, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L) &&
		/* undo every encoding that libcurl knows */
		set_option(transfer, CURLOPT_ACCEPT_ENCODING, "") &&
		set_option(transfer, CURLOPT_WRITEFUNCTION, transfer_receive_body) &&
		set_option(transfer, CURLOPT_WRITEDATA, transfer) &&
		(transfer->request.sink_file == NULL ||
		 set_option(transfer, CURLOPT_BUFFERSIZE, (long) SINK_BUFFER_SIZE));
}

/*
 * HTTP/1.1, like the official Python clients of these services.  With HTTP/2,
 * libcurl 7.88 spins while flow control holds up an upload, and starves requests
 * when a host has connections of both versions.  Besides, a server that closes
 * an HTTP/2 connection leaves behind requests of which libcurl does not say
 * whether they were begun, and a POST in such doubt may have cost money; the
 * last reply of an HTTP/1.1 connection announces its end.
 */
static bool
describe_connection(HttpTransfer *transfer)
{
	const char *proxy = address_choose_proxy(&transfer->request);

	transfer->through_proxy = proxy[0] != '\0';
	return set_option(transfer, CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1) &&
		set_option(transfer, CURLOPT_PROXY, proxy) &&
		set_option(transfer, CURLOPT_NOPROXY, "") &&
		set_option(transfer, CURLOPT_HEADEROPT, (long) CURLHEADER_SEPARATE) &&
		set_option(transfer, CURLOPT_CONNECTTIMEOUT_MS, (long) CONNECT_TIMEOUT_MS) &&
		set_option(transfer, CURLOPT_TCP_KEEPALIVE, 1L) &&
		set_option(transfer, CURLOPT_OPENSOCKETFUNCTION, transfer_open_socket) &&
		set_option(transfer, CURLOPT_OPENSOCKETDATA, transfer) &&
		set_option(transfer, CURLOPT_CLOSESOCKETFUNCTION, transfer_close_socket) &&
		set_option(transfer, CURLOPT_PREREQFUNCTION, transfer_before_sending) &&
		set_option(transfer, CURLOPT_PREREQDATA, transfer);
}

static bool
describe_protocols(HttpTransfer *transfer)
{
#if LIBCURL_VERSION_NUM >= 0x075500
	return set_option(transfer, CURLOPT_PROTOCOLS_STR, "http,https");
#else
	return set_option(transfer, CURLOPT_PROTOCOLS, (long) (CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
}

/* An account's CA bundle replaces the system's certificates, it does not add to them. */
static bool
describe_security(HttpTransfer *transfer)
{
	const char *ca_file = transfer->request.ca_file;

	return describe_protocols(transfer) &&
		set_option(transfer, CURLOPT_DISALLOW_USERNAME_IN_URL, 1L) &&
		set_option(transfer, CURLOPT_FOLLOWLOCATION, 0L) &&
		set_option(transfer, CURLOPT_SSL_VERIFYPEER, 1L) &&
		set_option(transfer, CURLOPT_SSL_VERIFYHOST, 2L) &&
		set_option(transfer, CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2) &&
		(ca_file == NULL ||
		 (set_option(transfer, CURLOPT_CAINFO, ca_file) &&
		  set_option(transfer, CURLOPT_CAPATH, (char *) NULL)));
}

static bool
describe_process(HttpTransfer *transfer)
{
#if LIBCURL_VERSION_NUM >= 0x075700
	/* giving up does not wait for a name server that does not answer */
	if (!set_option(transfer, CURLOPT_QUICK_EXIT, 1L))
		return false;
#endif
	return set_option(transfer, CURLOPT_NOSIGNAL, 1L) &&
		set_option(transfer, CURLOPT_PRIVATE, transfer) &&
		set_option(transfer, CURLOPT_ERRORBUFFER, transfer->curl_message);
}

bool
transfer_open(HttpTransfer *transfer)
{
	if (transfer->request.body_file != NULL && !open_body_file(transfer))
		return false;

	transfer->easy = curl_easy_init();
	if (transfer->easy == NULL)
	{
		transfer_fail(transfer, HTTP_LOCAL, "out of memory");
		return false;
	}

	if (set_option(transfer, CURLOPT_URL, transfer->request.url) &&
		set_option(transfer, CURLOPT_USERAGENT, USER_AGENT) &&
		set_option(transfer, CURLOPT_HTTPHEADER, transfer->headers) &&
		describe_process(transfer) && describe_security(transfer) &&
		describe_connection(transfer) && describe_body(transfer) && describe_reply(transfer))
		return true;

	transfer_fail(transfer, HTTP_LOCAL, "could not set up the request");
	return false;
}
