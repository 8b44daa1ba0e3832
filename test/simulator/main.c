/*
 * main.c
 *		Arguments, start and stop of the simulator.
 *
 * It runs in the foreground, listens on 127.0.0.1 only, and ends on SIGTERM,
 * on SIGINT, and when the process given by --parent is gone: a test that dies
 * leaves nothing behind.
 */
#include "http.h"
#include "providers.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

Options		sim_options = {.threads = 4, .seed = 1};

static char made_dir[] = "/tmp/dess_sim_XXXXXX";
static bool made;

static const char usage_text[] =
"usage: simulator [options]\n"
"  --port N          0 (default): a free one\n"
"  --port-file FILE  the address is written there\n"
"  --data DIR        where files are spooled (default: a new one, removed at exit)\n"
"  --keep-uploads DIR  every upload stays there as ID.jsonl, also when deleted\n"
"  --key KEY         accepted key, repeatable (default: test-key)\n"
"  --rotated-key KEY another one of the same project\n"
"  --model NAME      one more model, repeatable\n"
"  --bucket NAME     a bucket of Cloud Storage, repeatable (default: test-bucket)\n"
"  --project NAME    of Google Cloud (default: test-project)\n"
"  --service-account-file FILE, --authorized-user-file FILE,\n"
"  --impersonated-file FILE, --external-account-file FILE\n"
"                    Google credentials are written there\n"
"  --batch-ms N      duration of each state of a batch (default 200)\n"
"  --set NAME=N      any setting of POST /_sim/settings\n"
"  --latency-ms N    inference calls are answered so much later\n"
"  --threads N       (default 4)\n"
"  --seed N          for identifiers, order of lines and chances (default 1)\n"
"  --parent PID      exit when this process is gone\n";

static void
set_number(const char *name, const char *value)
{
	cJSON	   *o = cJSON_CreateObject();
	char		why[200];
	char	   *end;
	double		v = strtod(value, &end);

	if (*end != '\0' || end == value)
		die("\"%s\" is not a number", value);
	cJSON_AddNumberToObject(o, name, v);
	if (!settings_set(o, why, sizeof(why)))
		die("%s", why);
	cJSON_Delete(o);
}

static void
set_pair(char *pair)
{
	char	   *eq = strchr(pair, '=');

	if (eq == NULL)
		die("--set wants NAME=N");
	*eq = '\0';
	set_number(pair, eq + 1);
}

static void
add_name(const char **list, int *n, const char *value)
{
	if (*n >= 64)
		die("too many of one option");
	list[(*n)++] = value;
}

static void
apply_option(int c, char *value)
{
	Options    *o = &sim_options;

	switch (c)
	{
		case 'p':
			o->port = atoi(value);
			break;
		case 'f':
			o->port_file = value;
			break;
		case 'd':
			o->data_dir = value;
			break;
		case 'K':
			o->keep_dir = value;
			break;
		case 'k':
			o->key_projects[o->nkeys % 64] = o->nkeys;
			add_name(o->keys, &o->nkeys, value);
			break;
		case 'R':
			if (o->nkeys == 0)
				die("--rotated-key wants a --key before it");
			o->key_projects[o->nkeys % 64] = o->key_projects[o->nkeys - 1];
			add_name(o->keys, &o->nkeys, value);
			break;
		case 'm':
			add_name(o->models, &o->nmodels, value);
			break;
		case 'B':
			add_name(o->buckets, &o->nbuckets, value);
			break;
		case 'j':
			o->project = value;
			break;
		case 'S':
			o->service_account_file = value;
			break;
		case 'U':
			o->authorized_user_file = value;
			break;
		case 'I':
			o->impersonated_file = value;
			break;
		case 'E':
			o->external_account_file = value;
			break;
		case 'b':
			set_number("batch_ms", value);
			break;
		case 's':
			set_pair(value);
			break;
		case 'l':
			set_number("latency_ms", value);
			break;
		case 't':
			o->threads = atoi(value);
			break;
		case 'r':
			o->seed = strtoull(value, NULL, 10);
			break;
		case 'P':
			o->parent = atoi(value);
			break;
		case 'h':
			fputs(usage_text, stdout);
			exit(0);
		default:
			fputs(usage_text, stderr);
			exit(2);
	}
}

static void
read_options(int argc, char **argv)
{
	static const struct option longs[] = {
		{"port", 1, NULL, 'p'}, {"port-file", 1, NULL, 'f'}, {"data", 1, NULL, 'd'},
		{"key", 1, NULL, 'k'}, {"rotated-key", 1, NULL, 'R'}, {"model", 1, NULL, 'm'}, {"batch-ms", 1, NULL, 'b'},
		{"set", 1, NULL, 's'}, {"latency-ms", 1, NULL, 'l'}, {"threads", 1, NULL, 't'},
		{"seed", 1, NULL, 'r'}, {"parent", 1, NULL, 'P'},
		{"bucket", 1, NULL, 'B'}, {"project", 1, NULL, 'j'},
		{"service-account-file", 1, NULL, 'S'}, {"authorized-user-file", 1, NULL, 'U'},
		{"impersonated-file", 1, NULL, 'I'}, {"external-account-file", 1, NULL, 'E'},
		{"keep-uploads", 1, NULL, 'K'}, {"help", 0, NULL, 'h'},
		{NULL, 0, NULL, 0}
	};
	Options    *o = &sim_options;
	int			c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1)
		apply_option(c, optarg);
	if (optind < argc)
		die("unexpected argument \"%s\"", argv[optind]);
	if (o->nkeys == 0)
		add_name(o->keys, &o->nkeys, "test-key");
	if (o->nbuckets == 0)
		add_name(o->buckets, &o->nbuckets, "test-bucket");
	if (o->threads < 1 || o->threads > 64)
		die("--threads must be from 1 to 64");
}

static void
make_data_dir(void)
{
	if (sim_options.keep_dir != NULL && mkdir(sim_options.keep_dir, 0700) != 0 &&
		errno != EEXIST)
		die("could not make \"%s\": %s", sim_options.keep_dir, strerror(errno));
	if (sim_options.data_dir == NULL)
	{
		if (mkdtemp(made_dir) == NULL)
			die("could not make a directory: %s", strerror(errno));
		sim_options.data_dir = made_dir;
		made = true;
	}
	else if (mkdir(sim_options.data_dir, 0700) != 0 && errno != EEXIST)
		die("could not make \"%s\": %s", sim_options.data_dir, strerror(errno));
}

static void
raise_limits(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) == 0)
	{
		lim.rlim_cur = lim.rlim_max;
		setrlimit(RLIMIT_NOFILE, &lim);
	}
}

/* State letter and start time of a process; 0 when it is gone. */
static unsigned long long
process_started(int pid)
{
	char		path[64];
	char		line[2048];
	char	   *p;
	FILE	   *f;
	unsigned long long start = 0;
	char		state = 'X';

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "r");
	if (f == NULL)
		return 0;
	if (fgets(line, sizeof(line), f) != NULL && (p = strrchr(line, ')')) != NULL)
		sscanf(p + 2, "%c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d "
			   "%*d %*d %*d %*d %llu", &state, &start);
	fclose(f);
	return state == 'Z' || state == 'X' ? 0 : start;
}

static void
announce(void)
{
	printf("listening on http://127.0.0.1:%d\n", http_port());
	fflush(stdout);
	if (sim_options.port_file != NULL)
	{
		char		tmp[4096];
		FILE	   *f;

		snprintf(tmp, sizeof(tmp), "%s.tmp", sim_options.port_file);
		f = fopen(tmp, "w");
		if (f == NULL)
			die("could not write \"%s\": %s", tmp, strerror(errno));
		fprintf(f, "http://127.0.0.1:%d\n", http_port());
		fclose(f);
		if (rename(tmp, sim_options.port_file) != 0)
			die("could not write \"%s\": %s", sim_options.port_file, strerror(errno));
	}
}

/* Returns when it is time to go. */
static void
wait_for_end(const sigset_t *signals)
{
	unsigned long long born = 0;

	if (sim_options.parent > 0)
	{
		born = process_started(sim_options.parent);
		if (getppid() == sim_options.parent)
			prctl(PR_SET_PDEATHSIG, SIGTERM);
		if (born == 0)
			return;
	}
	for (;;)
	{
		struct timespec half = {0, 500000000L};
		int			sig = sigtimedwait(signals, NULL, &half);

		if (sig > 0)
			return;
		if (born != 0 && process_started(sim_options.parent) != born)
			return;
	}
}

int
main(int argc, char **argv)
{
	sigset_t	signals;

	now_ms();
	settings_set(NULL, NULL, 0);
	read_options(argc, argv);
	settings_set(NULL, NULL, 0);
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	raise_limits();
	make_data_dir();
	timer_start();
	openai_start();
	google_start();
	http_start();
	google_write_files();
	announce();
	wait_for_end(&signals);

	/* whatever hangs now must not keep a test waiting */
	signal(SIGALRM, SIG_DFL);
	alarm(5);
	if (sim_options.port_file != NULL)
		unlink(sim_options.port_file);
	http_stop();
	openai_stop();
	google_stop();
	if (made)
		rmdir(made_dir);
	return 0;
}
