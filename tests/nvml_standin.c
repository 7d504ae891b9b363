/* What a driver's NVML library answers, for a GPU that draws 100 W: by the interface of NVIDIA's nvml.h. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef void *Device;
enum { OK = 0, INVALID = 2, UNSUPPORTED = 3 };

static int refuses(const char *what) {
    const char *list = getenv("STANDIN_REFUSES");
    return list && strstr(list, what);
}

int nvmlInitWithFlags(unsigned flags) { return flags ? INVALID : OK; }
const char *nvmlErrorString(int code) { return code == UNSUPPORTED ? "Not Supported" : "Invalid Argument"; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device *device) {
    *device = (Device)(size_t)(index + 1);
    return index < 2 ? OK : INVALID;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Device *device) {
    *device = (Device)7;
    return strcmp(uuid, "GPU-seven") ? INVALID : OK;
}

int nvmlDeviceGetName(Device device, char *name, unsigned length) {
    strncpy(name, "Stand-in 0", length);
    name[9] = (char)('0' + (size_t)device);
    return OK;
}

int nvmlSystemGetDriverVersion(char *version, unsigned length) { strncpy(version, "580.12", length); return OK; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 13010; return OK; }

int nvmlDeviceGetMemoryInfo(Device device, unsigned long long *memory) {
    memory[0] = 3ull << 30;
    return OK;
}

int nvmlDeviceGetClockInfo(Device device, int kind, unsigned *mhz) { *mhz = kind == 1 ? 345 : 1; return OK; }
int nvmlDeviceGetMaxClockInfo(Device device, int kind, unsigned *mhz) { *mhz = kind == 1 ? 1980 : 1; return OK; }
int nvmlDeviceGetEnforcedPowerLimit(Device device, unsigned *mw) { *mw = 350500; return OK; }

int nvmlDeviceGetTemperature(Device device, int sensor, unsigned *degrees) {
    *degrees = 41;
    return refuses("temperature") ? UNSUPPORTED : OK;
}

int nvmlDeviceGetTotalEnergyConsumption(Device device, unsigned long long *mj) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    *mj = 100000ull * now.tv_sec + now.tv_nsec / 10000; /* 100 W */
    return refuses("energy") ? UNSUPPORTED : OK;
}

int nvmlDeviceGetPowerUsage(Device device, unsigned *mw) {
    *mw = 100000;
    return refuses("power") ? UNSUPPORTED : OK;
}
