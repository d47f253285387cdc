/* Load for a DOTS signal channel: many DTLS sessions of one client in one process, one thread.
 *
 *   cc -O2 -Wall -Wextra -o benchmarks/bin/load benchmarks/load.c -lgnutls
 *
 *   load --mode full   --sessions 100 --seconds 10 ...   full mutual handshakes, one after the other in each slot
 *   load --mode resume ...                               the same by session ticket
 *   load --mode get    --path .well-known/dots/config    one request at a time in each session
 *   load --mode put    --cuid NAME --prefix 198.51.100.0/24
 *                       mitigation requests, every one with a new mid and the next /32 of the prefix; the answer
 *                       counts, so with a server that commits before it answers this is the durable rate
 *
 *   --host 127.0.0.1 --port 4646 --cert F --key F --ca F --name N   whom to reach and who we are
 *   --cpu K      pin this process to one processor, so that it does not take the server's
 *   --con        confirmable requests (default: non-confirmable, as DOTS wants them)
 *   --first-mid N, --lifetime S, --repeat S (until the answer; default 3, RFC 9132 section 4.4)
 *   --new-mid 0  refresh: each session repeats its own mid
 *
 * One JSON object on standard output. Latencies are in milliseconds, from the first sending of a request or a hello.
 * "late" counts answers that came after a repeat. The server is verified when --ca and --name are given.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <gnutls/dtls.h>
#include <gnutls/gnutls.h>
#include <netdb.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum mode { FULL, RESUME, GET, PUT };
static const char *const mode_names[] = {"full", "resume", "get", "put"};

struct session {
    gnutls_session_t tls;
    int fd;
    bool up, waiting, repeated;
    double began, next; /* of the handshake or request under way; when to look at it again */
    uint16_t mid;
    uint32_t mitigation;
    uint32_t token;
    uint8_t request[512];
    size_t length;
};

static enum mode mode = GET;
static int sessions = 1, cpu = -1, lifetime = 3600, new_mid = 1, confirmable;
static double seconds = 10, repeat_after = 3;
static const char *host = "127.0.0.1", *port = "4646", *path = "", *cert, *key, *ca, *name, *cuid = "load";
static uint32_t next_mitigation = 1, prefix_first, prefix_size = 1, targets;

static struct sockaddr_storage server;
static socklen_t server_length;
static gnutls_certificate_credentials_t credentials;
static gnutls_priority_t priority;
static gnutls_datum_t ticket;
static int poller;

static float *latencies;
static size_t count, room;
static unsigned long resumed, handshakes, errors, repeats, late, refused, codes[256];
static double measuring_since;

static double now(void) {
    struct timespec moment;
    clock_gettime(CLOCK_MONOTONIC, &moment);
    return moment.tv_sec + moment.tv_nsec * 1e-9;
}

static void die(const char *what) {
    fprintf(stderr, "load: %s\n", what);
    exit(1);
}

static void check(int code, const char *what) {
    if (code < 0) {
        fprintf(stderr, "load: %s: %s\n", what, gnutls_strerror(code));
        exit(1);
    }
}

static void record(double since) {
    if (measuring_since == 0 || since < measuring_since) return;
    if (count == room) {
        room = room ? 2 * room : 1 << 16;
        latencies = realloc(latencies, room * sizeof *latencies);
        if (!latencies) die("out of memory");
    }
    latencies[count++] = (now() - since) * 1e3;
}

/* -- sessions ----------------------------------------------------------------------------------------------------- */

static void advance(struct session *s, int index);

static void begin(struct session *s, int index) {
    s->fd = socket(server.ss_family, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    if (s->fd < 0 || connect(s->fd, (struct sockaddr *)&server, server_length) < 0) die(strerror(errno));
    struct epoll_event interest = {.events = EPOLLIN, .data.u32 = index};
    epoll_ctl(poller, EPOLL_CTL_ADD, s->fd, &interest);
    check(gnutls_init(&s->tls, GNUTLS_CLIENT | GNUTLS_DATAGRAM | GNUTLS_NONBLOCK), "session");
    gnutls_priority_set(s->tls, priority);
    gnutls_credentials_set(s->tls, GNUTLS_CRD_CERTIFICATE, credentials);
    if (name) {
        gnutls_server_name_set(s->tls, GNUTLS_NAME_DNS, name, strlen(name));
        gnutls_session_set_verify_cert(s->tls, name, 0);
    }
    gnutls_transport_set_int(s->tls, s->fd);
    gnutls_dtls_set_mtu(s->tls, 1232);
    gnutls_dtls_set_timeouts(s->tls, 1000, 60000);
    if (ticket.data) gnutls_session_set_data(s->tls, ticket.data, ticket.size);
    s->up = s->waiting = s->repeated = false;
    s->began = now();
    getrandom(&s->mid, sizeof s->mid, 0);
    advance(s, index);
}

static void end(struct session *s, bool politely) {
    if (politely) gnutls_bye(s->tls, GNUTLS_SHUT_WR);
    gnutls_deinit(s->tls);
    close(s->fd);
    s->tls = NULL;
    s->up = false;
}

static void fail(struct session *s, int index, int code) {
    if (++errors <= 3) fprintf(stderr, "load: session %d: %s\n", index, gnutls_strerror(code));
    end(s, false);
    if (errors > 1000000) die("too many errors");
    begin(s, index);
}

/* One step of the handshake, because something came or because it is time. */
static void advance(struct session *s, int index) {
    int code = gnutls_handshake(s->tls);
    if (code == 0) {
        s->up = true;
        handshakes++;
        resumed += gnutls_session_is_resumed(s->tls) != 0;
        if (mode == FULL || mode == RESUME) {
            record(s->began);
            end(s, true);
            begin(s, index);
        }
        return;
    }
    if (gnutls_error_is_fatal(code)) {
        fail(s, index, code);
        return;
    }
    unsigned wait = gnutls_dtls_get_timeout(s->tls);
    s->next = now() + (wait < 20 ? 20 : wait) * 1e-3;
}

/* -- requests ----------------------------------------------------------------------------------------------------- */

static size_t put_option(uint8_t *at, int delta, const char *value, size_t length) {
    size_t used = 1;
    at[0] = delta << 4 | (length < 13 ? length : 13);
    if (length >= 13) at[used++] = length - 13;
    memcpy(at + used, value, length);
    return used + length;
}

static size_t put_path(uint8_t *at, const char *text, int *last) {
    size_t used = 0;
    while (*text) {
        size_t length = strcspn(text, "/");
        if (length > 255) die("a path segment is too long");
        used += put_option(at + used, 11 - *last, text, length);
        *last = 11;
        text += length + (text[length] == '/');
    }
    return used;
}

/* {1: {2: [{6: ["a.b.c.d/32"], 14: lifetime}]}} */
static size_t put_scope(uint8_t *at, uint32_t address, int seconds_) {
    char prefix[24];
    int length = snprintf(prefix, sizeof prefix, "%u.%u.%u.%u/32", address >> 24, address >> 16 & 255,
                          address >> 8 & 255, address & 255);
    uint8_t head[] = {0xa1, 1, 0xa1, 2, 0x81, 0xa2, 6, 0x81, 0x60 | length};
    memcpy(at, head, sizeof head);
    memcpy(at + sizeof head, prefix, length);
    uint8_t *tail = at + sizeof head + length;
    tail[0] = 14;
    tail[1] = 0x19;
    tail[2] = seconds_ >> 8;
    tail[3] = seconds_;
    return sizeof head + length + 4;
}

static void compose(struct session *s) {
    uint8_t *at = s->request;
    int last = 0;
    if (mode == PUT && (new_mid || s->mitigation == 0)) s->mitigation = next_mitigation++;
    getrandom(&s->token, sizeof s->token, 0);
    *at++ = 0x44 | (confirmable ? 0 : 0x10);
    *at++ = mode == PUT ? 3 : 1;
    at += 2; /* Message ID: set when sent */
    memcpy(at, &s->token, 4);
    at += 4;
    if (mode == GET) {
        at += put_path(at, path, &last);
    } else {
        char full[256];
        snprintf(full, sizeof full, ".well-known/dots/mitigate/cuid=%s/mid=%u", cuid, s->mitigation);
        at += put_path(at, full, &last);
        uint8_t format[] = {0x12, 0x01, 0x0f, 0xff}; /* Content-Format 271, payload marker */
        memcpy(at, format, sizeof format);
        at += sizeof format;
        at += put_scope(at, prefix_first + (new_mid ? targets++ : s->mitigation) % prefix_size, lifetime);
    }
    s->length = at - s->request;
}

static void transmit(struct session *s) {
    s->mid++;
    s->request[2] = s->mid >> 8;
    s->request[3] = s->mid;
    s->next = now() + repeat_after;
    if (gnutls_record_send(s->tls, s->request, s->length) < 0) errors++;
}

static void ask(struct session *s) {
    compose(s);
    s->began = now();
    s->waiting = true;
    s->repeated = false;
    transmit(s);
}

static void answered(struct session *s, const uint8_t *data) {
    if (!s->waiting) return;
    codes[data[1]]++;
    refused += data[1] >= 0x80;
    late += s->repeated;
    record(s->began);
    ask(s);
}

static void receive(struct session *s, int index) {
    uint8_t data[2048];
    for (;;) {
        ssize_t size = gnutls_record_recv(s->tls, data, sizeof data);
        if (size == GNUTLS_E_AGAIN) return;
        if (size == 0 || (size < 0 && gnutls_error_is_fatal(size))) {
            fail(s, index, size);
            return;
        }
        if (size < 4) continue;
        size_t token = data[0] & 15;
        bool request = data[1] > 0 && data[1] < 32;
        if (request && size >= 4 + (ssize_t)token) { /* the server's heartbeat: 2.04, piggybacked when confirmable */
            data[0] = (data[0] & 0x30 ? 0x50 : 0x60) | token;
            data[1] = 0x44;
            if (data[0] & 0x10) {
                s->mid++;
                data[2] = s->mid >> 8;
                data[3] = s->mid;
            }
            gnutls_record_send(s->tls, data, 4 + token);
        } else if (data[1] && token == 4 && !memcmp(data + 4, &s->token, 4)) {
            if ((data[0] >> 4 & 3) == 0) { /* a separate, confirmable answer */
                uint8_t ack[] = {0x60, 0, data[2], data[3]};
                gnutls_record_send(s->tls, ack, sizeof ack);
            }
            answered(s, data);
        }
    }
}

/* -- the run ------------------------------------------------------------------------------------------------------ */

static void resolve(void) {
    struct addrinfo hints = {.ai_socktype = SOCK_DGRAM}, *found;
    if (getaddrinfo(host, port, &hints, &found)) die("the host cannot be resolved");
    memcpy(&server, found->ai_addr, found->ai_addrlen);
    server_length = found->ai_addrlen;
    freeaddrinfo(found);
}

static void prepare(void) {
    check(gnutls_certificate_allocate_credentials(&credentials), "credentials");
    if (cert) check(gnutls_certificate_set_x509_key_file(credentials, cert, key, GNUTLS_X509_FMT_PEM), cert);
    if (ca) check(gnutls_certificate_set_x509_trust_file(credentials, ca, GNUTLS_X509_FMT_PEM), ca);
    check(gnutls_priority_init(&priority, "NORMAL:-VERS-ALL:+VERS-DTLS1.2", NULL), "priorities");
    if (cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        if (sched_setaffinity(0, sizeof set, &set) < 0) die("no such processor");
    }
    struct rlimit limit = {sessions + 64, sessions + 64};
    struct rlimit current;
    getrlimit(RLIMIT_NOFILE, &current);
    if (current.rlim_cur < limit.rlim_cur && setrlimit(RLIMIT_NOFILE, &limit) < 0) die("too many sessions");
    poller = epoll_create1(0);
    resolve();
}

static void step(struct session *all, int started, int timeout) {
    struct epoll_event ready[256];
    int found = epoll_wait(poller, ready, 256, timeout);
    for (int i = 0; i < found; i++) {
        struct session *s = &all[ready[i].data.u32];
        if (!s->tls) continue;
        if (!s->up) advance(s, s - all);
        else receive(s, s - all);
    }
    static double scanned;
    double moment = now();
    if (moment - scanned < 0.02) return;
    scanned = moment;
    for (int i = 0; i < started; i++) {
        struct session *s = &all[i];
        if (!s->tls || moment < s->next) continue;
        if (!s->up) {
            advance(s, i);
        } else if (s->waiting) {
            repeats++;
            s->repeated = true;
            transmit(s);
        }
    }
}

/* A ticket for all, and no session left of it. */
static void fetch_ticket(struct session *all) {
    enum mode wanted = mode;
    mode = GET;
    begin(&all[0], 0);
    double limit = now() + 10;
    while (!all[0].up && now() < limit) step(all, 1, 50);
    if (!all[0].up) die("no handshake for the ticket");
    check(gnutls_session_get_data2(all[0].tls, &ticket), "ticket");
    end(&all[0], true);
    mode = wanted;
    handshakes = 0;
}

static int compare(const void *left, const void *right) {
    float a = *(const float *)left, b = *(const float *)right;
    return (a > b) - (a < b);
}

static double percentile(double part) {
    return count ? latencies[(size_t)((count - 1) * part)] : 0;
}

static void report(double elapsed, double set_up) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    qsort(latencies, count, sizeof *latencies, compare);
    printf("{\"mode\": \"%s\", \"sessions\": %d, \"seconds\": %.2f, \"count\": %zu, \"per_second\": %.1f, ",
           mode_names[mode], sessions, elapsed, count, count / elapsed);
    printf("\"latency_ms\": {\"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, \"p999\": %.3f, \"max\": %.3f}, ",
           percentile(.5), percentile(.9), percentile(.99), percentile(.999), percentile(1));
    printf("\"handshakes\": %lu, \"resumed\": %lu, \"set_up_seconds\": %.2f, \"errors\": %lu, \"repeats\": %lu, "
           "\"late\": %lu, \"refused\": %lu, \"codes\": {",
           handshakes, resumed, set_up, errors, repeats, late, refused);
    const char *comma = "";
    for (int code = 0; code < 256; code++)
        if (codes[code]) {
            printf("%s\"%d.%02d\": %lu", comma, code >> 5, code & 31, codes[code]);
            comma = ", ";
        }
    printf("}, \"client_cpu_seconds\": %.2f}\n", used.ru_utime.tv_sec + used.ru_utime.tv_usec * 1e-6 +
                                                    used.ru_stime.tv_sec + used.ru_stime.tv_usec * 1e-6);
}

static void run(void) {
    struct session *all = calloc(sessions, sizeof *all);
    if (!all) die("out of memory");
    if (mode == RESUME) fetch_ticket(all);
    bool by_request = mode == GET || mode == PUT;
    double began = now();
    int started = 0, up = 0;
    if (!by_request) measuring_since = began;
    while (by_request ? up < sessions : started < sessions) { /* forty handshakes at a time */
        for (; started < sessions && (!by_request || started - up < 40); started++) begin(&all[started], started);
        step(all, started, 10);
        if (by_request) {
            up = 0;
            for (int i = 0; i < started; i++) up += all[i].up;
            if (now() - began > 30 + sessions / 100.0) die("the sessions do not come up");
        }
    }
    double set_up = now() - began;
    if (by_request) {
        measuring_since = now();
        for (int i = 0; i < sessions; i++) ask(&all[i]);
    }
    while (now() < measuring_since + seconds) step(all, sessions, 10);
    report(now() - measuring_since, set_up);
    for (int i = 0; i < sessions; i++)
        if (all[i].tls) end(&all[i], all[i].up);
}

static void parse_prefix(char *text) {
    char *slash = strchr(text, '/');
    struct in_addr address;
    if (!slash) die("--prefix wants an IPv4 prefix");
    *slash = 0;
    int bits = atoi(slash + 1);
    if (!inet_aton(text, &address) || bits < 1 || bits > 32) die("--prefix wants an IPv4 prefix");
    prefix_first = ntohl(address.s_addr);
    prefix_size = bits == 32 ? 1 : 1u << (32 - bits);
}

static void parse(int argc, char **argv) {
    static const struct option known[] = {
        {"mode", 1, 0, 'm'},      {"sessions", 1, 0, 'n'}, {"seconds", 1, 0, 's'}, {"host", 1, 0, 'h'},
        {"port", 1, 0, 'p'},      {"cert", 1, 0, 'c'},     {"key", 1, 0, 'k'},     {"ca", 1, 0, 'a'},
        {"name", 1, 0, 'N'},      {"path", 1, 0, 'P'},     {"cuid", 1, 0, 'u'},    {"prefix", 1, 0, 'x'},
        {"first-mid", 1, 0, 'f'}, {"lifetime", 1, 0, 'l'}, {"repeat", 1, 0, 'r'},  {"cpu", 1, 0, 'C'},
        {"con", 0, 0, 'o'},       {"new-mid", 1, 0, 'w'},  {0, 0, 0, 0},
    };
    int option;
    while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (option) {
        case 'm':
            for (mode = FULL; mode <= PUT && strcmp(optarg, mode_names[mode]); mode++) {}
            if (mode > PUT) die("--mode is full, resume, get or put");
            break;
        case 'n': sessions = atoi(optarg); break;
        case 's': seconds = atof(optarg); break;
        case 'h': host = optarg; break;
        case 'p': port = optarg; break;
        case 'c': cert = optarg; break;
        case 'k': key = optarg; break;
        case 'a': ca = optarg; break;
        case 'N': name = optarg; break;
        case 'P': path = optarg; break;
        case 'u': cuid = optarg; break;
        case 'x': parse_prefix(optarg); break;
        case 'f': next_mitigation = strtoul(optarg, NULL, 10); break;
        case 'l': lifetime = atoi(optarg); break;
        case 'r': repeat_after = atof(optarg); break;
        case 'C': cpu = atoi(optarg); break;
        case 'o': confirmable = 1; break;
        case 'w': new_mid = atoi(optarg); break;
        default: exit(2);
        }
    }
    if (sessions < 1 || seconds <= 0) die("--sessions and --seconds must be positive");
    if (cert && !key) key = cert;
    if (strlen(cuid) > 100 || strlen(path) > 200) die("--cuid or --path is too long");
    if (mode == PUT && !prefix_first) die("--mode put needs --prefix");
}

int main(int argc, char **argv) {
    parse(argc, argv);
    prepare();
    run();
    return 0;
}
