/* libgearman: `libgearman_pair worker|client PORT FUNCTION MODE`.
 *
 * The client says `ready`, then answers each count on a line of its own with the seconds that it took.
 * MODE: `submit` and `send` keep 1,000 tasks under way, a new one as each ends; `lone` does one at a time;
 * `upload:BYTES` and `download:BYTES` do payloads of that size one at a time, one way each.
 *
 * With KERNEL_BUFFERS in the environment, sockets keep the buffers that the kernel gives them. libgearman asks for
 * 32 KiB; the loopback device, whose segments have 64 KiB, then waits 40 ms for an acknowledgement after each segment.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <libgearman/gearman.h>

enum { IN_FLIGHT = 1000, SMALL_BYTES = 64 };

static long to_start, to_end;
static const char *function_name;
static gearman_client_st *client;
static char small[SMALL_BYTES];
static int background;

/* Found before the C library's, by libgearman too. */
int setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
    if (getenv("KERNEL_BUFFERS") && level == SOL_SOCKET && (name == SO_SNDBUF || name == SO_RCVBUF))
        return 0;
    return syscall(SYS_setsockopt, fd, level, name, value, size);
}

static void must(int held, const char *what)
{
    if (!held) {
        fprintf(stderr, "libgearman: %s: %s\n", what, client ? gearman_client_error(client) : "");
        exit(1);
    }
}

/* The payload of a download job is the size that is wanted; that of an upload job is dropped; else it is echoed. */
static void *work(gearman_job_st *job, void *mode, size_t *result_size, gearman_return_t *outcome)
{
    size_t size = gearman_job_workload_size(job);
    const char *payload = gearman_job_workload(job);
    char text[32] = "";
    char *result;

    if (strncmp(mode, "download", 8) == 0) {
        memcpy(text, payload, size < sizeof text ? size : sizeof text - 1);
        size = strtoul(text, NULL, 10);
        result = malloc(size);
        memset(result, 'x', size);
    } else if (strncmp(mode, "upload", 6) == 0) {
        size = 1;
        result = strdup("1");
    } else {
        result = malloc(size);
        memcpy(result, payload, size);
    }
    *result_size = size;
    *outcome = GEARMAN_SUCCESS;
    return result;
}

static int run_worker(int port, char *mode)
{
    gearman_worker_st *worker = gearman_worker_create(NULL);

    must(gearman_worker_add_server(worker, "127.0.0.1", port) == GEARMAN_SUCCESS, "add_server");
    must(gearman_worker_add_function(worker, function_name, 0, work, mode) == GEARMAN_SUCCESS, "add_function");
    puts("ready");
    fflush(stdout);
    while (gearman_worker_work(worker) == GEARMAN_SUCCESS)
        ;
    return 1;
}

static void start_one(void)
{
    gearman_return_t outcome;

    to_start--;
    if (background)
        gearman_client_add_task_background(client, NULL, NULL, function_name, NULL, small, sizeof small, &outcome);
    else
        gearman_client_add_task(client, NULL, NULL, function_name, NULL, small, sizeof small, &outcome);
    must(outcome == GEARMAN_SUCCESS, "add_task");
}

static gearman_return_t ended(gearman_task_st *task)
{
    (void)task;
    to_end--;
    if (to_start)
        start_one();
    return GEARMAN_SUCCESS;
}

static void run_many(long count)
{
    to_start = to_end = count;
    for (int started = 0; started < IN_FLIGHT && to_start; started++)
        start_one();
    must(gearman_client_run_tasks(client) == GEARMAN_SUCCESS && !to_end, "run_tasks");
}

static void run_lone(long count, const char *payload, size_t size, size_t answer_bytes)
{
    for (; count; count--) {
        size_t result_size = 0;
        gearman_return_t outcome;
        void *result = gearman_client_do(client, function_name, NULL, payload, size, &result_size, &outcome);

        must(outcome == GEARMAN_SUCCESS && result_size == answer_bytes, "do");
        free(result);
    }
}

static void transfer(long count, const char *way, size_t bytes)
{
    char wanted[32];

    if (strcmp(way, "upload") == 0) {
        char *payload = malloc(bytes);

        memset(payload, 'x', bytes);
        run_lone(count, payload, bytes, 1);
        free(payload);
    } else {
        run_lone(count, wanted, snprintf(wanted, sizeof wanted, "%zu", bytes), bytes);
    }
}

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static int run_client(int port, char *mode)
{
    char line[64];
    char *size = strchr(mode, ':');

    if (size)
        *size++ = '\0';
    background = strcmp(mode, "send") == 0;
    client = gearman_client_create(NULL);
    must(gearman_client_add_server(client, "127.0.0.1", port) == GEARMAN_SUCCESS, "add_server");
    gearman_client_add_options(client, GEARMAN_CLIENT_FREE_TASKS);
    if (background)
        gearman_client_set_created_fn(client, ended);
    else
        gearman_client_set_complete_fn(client, ended);
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        long count = atol(line);
        double begun = now();

        if (size)
            transfer(count, mode, strtoul(size, NULL, 10));
        else if (strcmp(mode, "lone") == 0)
            run_lone(count, small, sizeof small, sizeof small);
        else
            run_many(count);
        printf("%.9f\n", now() - begun);
        fflush(stdout);
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    function_name = argv[3];
    memset(small, 'x', sizeof small);
    return strcmp(argv[1], "worker") == 0 ? run_worker(atoi(argv[2]), argv[4]) : run_client(atoi(argv[2]), argv[4]);
}
