/* The firmware as a process: on a TCP port or a pseudo-terminal, its chip in memory or in a file.
 *
 *   cim-native [--listen tcp://HOST:PORT | pty] [--seed N] [--state FILE]
 *
 * Prints the address that a host takes, then serves until it is ended. SIGUSR1 cuts the power: at
 * once when idle, else before the next cell of the command under way. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "cim_firmware.h"
#include "ideal_array.h"

#define USAGE "[--listen tcp://HOST:PORT | pty] [--seed N] [--state FILE]"
#define IDLE_MS 50
#define STALLED_MS 2000

static int listener = -1; /* TCP only */
static int line = -1;     /* the host's connection, or the master of the pseudo-terminal */
static int terminal = -1; /* kept open, so that reading does not fail while no host has it open */
static volatile sig_atomic_t power_cut;
static jmp_buf restart;
static struct model_chip *chip;
static uint64_t seed;

static void fail(const char *what) {
    fprintf(stderr, "cim-native: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* ---- hal: bytes -------------------------------------------------------------------------------- */

static void hang_up(void) {
    if (listener >= 0 && line >= 0) {
        close(line);
        line = -1;
    }
}

/* A new connection takes the place of the old one: its host may have died without a word. */
static void accept_host(void) {
    int host = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    if (host < 0)
        return;
    int on = 1;
    setsockopt(host, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    hang_up();
    line = host;
}

/* Several chunks that hal_receive hands out come from one system call. */
static uint8_t incoming[1 << 16];
static size_t incoming_size, incoming_at;

size_t hal_receive(uint8_t *data, size_t room) {
    if (incoming_at == incoming_size) {
        struct pollfd waits[2] = {{listener, POLLIN, 0}, {line, POLLIN, 0}};
        if (poll(waits, 2, IDLE_MS) <= 0)
            return 0;
        if (waits[0].revents)
            accept_host();
        if (!(waits[1].revents) || line < 0)
            return 0;
        ssize_t size = read(line, incoming, sizeof incoming);
        if (size == 0 || (size < 0 && errno != EAGAIN && errno != EINTR && errno != EIO))
            hang_up();
        incoming_at = 0;
        incoming_size = size > 0 ? (size_t)size : 0;
    }
    size_t size = incoming_size - incoming_at < room ? incoming_size - incoming_at : room;
    memcpy(data, incoming + incoming_at, size);
    incoming_at += size;
    return size;
}

static uint8_t outgoing[1 << 16];
static size_t outgoing_size;

/* Nobody takes the answers: what the host had asked for before it went is dropped too, since each
 * request would renew its lease, and each answer wait as long again. */
static void forget_host(void) {
    hang_up();
    incoming_at = incoming_size = 0;
    if (terminal >= 0)
        tcflush(terminal, TCIOFLUSH);
}

static void transmit(void) {
    size_t at = 0;
    while (at < outgoing_size && line >= 0) {
        ssize_t size = write(line, outgoing + at, outgoing_size - at);
        if (size > 0) {
            at += (size_t)size;
            continue;
        }
        struct pollfd wait = {line, POLLOUT, 0};
        bool again = size < 0 && (errno == EAGAIN || errno == EINTR);
        if (!again || poll(&wait, 1, STALLED_MS) == 0)
            break;
    }
    if (at < outgoing_size)
        forget_host();
    outgoing_size = 0;
}

void hal_send(const uint8_t *data, size_t size) {
    if (outgoing_size + size > sizeof outgoing)
        transmit();
    memcpy(outgoing + outgoing_size, data, size);
    outgoing_size += size;
    /* A frame ends with its delimiter; what follows at once may wait for it. */
    if (size == 1 && data[0] == CIM_DELIMITER)
        transmit();
}

/* ---- hal: board -------------------------------------------------------------------------------- */

uint32_t hal_milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint32_t)((uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u);
}

uint32_t hal_boot_id(void) {
    uint32_t number = 0;
    if (getrandom(&number, sizeof number, 0) != sizeof number)
        number = hal_milliseconds();
    return number;
}

_Noreturn void hal_reboot(void) { longjmp(restart, 1); }

static void cut(void) {
    if (power_cut) {
        power_cut = 0;
        outgoing_size = 0;
        hal_reboot();
    }
}

void model_before_cell(void) { cut(); }

static void on_signal(int number) {
    (void)number;
    power_cut = 1;
}

/* ---- starting ---------------------------------------------------------------------------------- */

static char announcement[300]; /* where a host finds us */

/* Said once, when the board is ready for it. */
static void announce(void) {
    if (announcement[0]) {
        puts(announcement);
        fflush(stdout);
        announcement[0] = 0;
    }
}

static void listen_tcp(const char *address) {
    char host[256], port[16];
    if (sscanf(address, "tcp://%255[^:]:%15[0-9]", host, port) != 2) {
        fprintf(stderr, "cim-native: '%s' cannot be listened on: write tcp://127.0.0.1:0, or pty\n",
                address);
        exit(2);
    }
    struct addrinfo *found, hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};
    if (getaddrinfo(host, port, &hints, &found))
        fail(address);
    int on = 1;
    struct sockaddr_in bound;
    socklen_t size = sizeof bound;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, found->ai_addr, found->ai_addrlen) || listen(listener, 4) ||
        getsockname(listener, (struct sockaddr *)&bound, &size))
        fail(address);
    freeaddrinfo(found);
    snprintf(announcement, sizeof announcement, "tcp://%s:%u", inet_ntoa(bound.sin_addr),
             ntohs(bound.sin_port));
}

static void open_pty(void) {
    line = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
    if (line < 0 || grantpt(line) || unlockpt(line))
        fail("pty");
    const char *name = ptsname(line);
    terminal = open(name, O_RDWR | O_NOCTTY);
    struct termios settings;
    if (terminal < 0 || tcgetattr(terminal, &settings))
        fail(name);
    cfmakeraw(&settings);
    tcsetattr(terminal, TCSANOW, &settings);
    snprintf(announcement, sizeof announcement, "%s", name);
}

static struct model_chip *chip_in(const char *path) {
    int flags = path ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, file = -1;
    if (path) {
        file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (file < 0 || ftruncate(file, sizeof(struct model_chip)))
            fail(path);
    }
    void *memory = mmap(NULL, sizeof(struct model_chip), PROT_READ | PROT_WRITE, flags, file, 0);
    if (memory == MAP_FAILED)
        fail(path ? path : "memory");
    return memory;
}

int main(int count, char **arguments) {
    const char *address = "tcp://127.0.0.1:0", *state = NULL;
    for (int i = 1; i < count; i += 2) {
        if (i + 1 == count)
            return fprintf(stderr, "usage: cim-native %s\n", USAGE), 2;
        if (!strcmp(arguments[i], "--listen"))
            address = arguments[i + 1];
        else if (!strcmp(arguments[i], "--seed"))
            seed = strtoull(arguments[i + 1], NULL, 0);
        else if (!strcmp(arguments[i], "--state"))
            state = arguments[i + 1];
        else
            return fprintf(stderr, "usage: cim-native %s\n", USAGE), 2;
    }
    signal(SIGPIPE, SIG_IGN);
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, NULL);
    chip = chip_in(state);
    if (chip->identity && !model_holds(chip, seed)) {
        fprintf(stderr, "cim-native: %s holds another chip; it was not touched\n", state);
        return 2;
    }
    if (!strcmp(address, "pty"))
        open_pty();
    else
        listen_tcp(address);
    setjmp(restart);
    incoming_at = incoming_size = 0;
    model_start(chip, seed);
    cim_power_up();
    announce();
    for (;;) {
        cim_poll();
        cut();
    }
}
