// A stand-in for NVIDIA's libcuda.so.1: gpuprobe is linked against it where there is no driver, and
// its tests run on it. The environment says what it poses as:
//
//   FAKECUDA_INIT     the result of cuInit (0)
//   FAKECUDA_DEVICES  devices by comma: NAME:MAJOR.MINOR:TOTAL_MIB:FREE_MIB
//   FAKECUDA_SICK     ORDINAL:HOW, where HOW is context, alloc, send, fetch, bytes or hang
//
// CUDA_VISIBLE_DEVICES bounds and orders the devices, as the driver has it: the first entry that
// names none ends the list.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, ECC = 214, LAUNCH_FAILED = 719, NOT_SUPPORTED = 801 };

#define MOST 16

static struct device {
	int ordinal, major, minor;
	size_t total, free;
	char name[128];
} all[MOST], *seen[MOST];
static int n_all, n_seen;
static struct device *current; // a context is its device

static int sick(const struct device *d, const char *how) {
	const char *env = getenv("FAKECUDA_SICK");
	int ordinal, at = 0;
	return env && d && sscanf(env, "%d:%n", &ordinal, &at) == 1 && at && d->ordinal == ordinal && !strcmp(env + at, how);
}

static void uuid_of(const struct device *d, unsigned char out[16]) {
	memset(out, 0, 16);
	out[0] = 0xfa;
	out[15] = (unsigned char)d->ordinal;
}

static struct device *named(const char *entry) {
	for (int i = 0; i < n_all; i++) {
		unsigned char u[16];
		char name[48], index[16];
		uuid_of(&all[i], u);
		snprintf(name, sizeof name, "GPU-%02x000000-0000-0000-0000-0000000000%02x", u[0], u[15]);
		snprintf(index, sizeof index, "%d", i);
		if (!strcmp(entry, index) || (!strncmp(entry, "GPU-", 4) && !strncmp(entry, name, strlen(entry)))) return &all[i];
	}
	return NULL;
}

int cuInit(unsigned flags) {
	const char *init = getenv("FAKECUDA_INIT"), *devices = getenv("FAKECUDA_DEVICES"), *visible = getenv("CUDA_VISIBLE_DEVICES");
	if (init && atoi(init)) return atoi(init);
	char *list = strdup(devices ? devices : ""), *rest = list, *one;
	while ((one = strsep(&rest, ",")) && n_all < MOST) {
		struct device *d = &all[n_all];
		if (sscanf(one, "%127[^:]:%d.%d:%zu:%zu", d->name, &d->major, &d->minor, &d->total, &d->free) != 5) continue;
		d->total <<= 20;
		d->free <<= 20;
		d->ordinal = n_all++;
	}
	free(list);
	if (!visible) {
		for (; n_seen < n_all; n_seen++) seen[n_seen] = &all[n_seen];
	} else {
		list = rest = strdup(visible);
		while ((one = strsep(&rest, ",")) && n_seen < MOST && (seen[n_seen] = named(one))) n_seen++;
		free(list);
	}
	return n_seen ? OK : 100;
}

int cuDriverGetVersion(int *v) { *v = 12080; return OK; }
int cuDeviceGetCount(int *n) { *n = n_seen; return OK; }
int cuDeviceGet(int *d, int i) {
	if (i < 0 || i >= n_seen) return INVALID_DEVICE;
	*d = i;
	return OK;
}
int cuDeviceGetUuid(unsigned char *u, int d) { uuid_of(seen[d], u); return OK; }
int cuDeviceGetName(char *s, int len, int d) { snprintf(s, (size_t)len, "%s", seen[d]->name); return OK; }
int cuDeviceTotalMem_v2(size_t *n, int d) { *n = seen[d]->total; return OK; }
int cuDeviceGetAttribute(int *v, int attribute, int d) {
	switch (attribute) {
	case 75: *v = seen[d]->major; return OK;
	case 76: *v = seen[d]->minor; return OK;
	}
	return INVALID_VALUE;
}

int cuCtxCreate_v2(void **ctx, unsigned flags, int d) {
	if (sick(seen[d], "hang")) for (;;) pause();
	if (sick(seen[d], "context")) return ECC;
	*ctx = current = seen[d];
	return OK;
}
int cuCtxDestroy_v2(void *ctx) { current = NULL; return OK; }
int cuMemGetInfo_v2(size_t *free, size_t *total) {
	*free = current->free;
	*total = current->total;
	return OK;
}
int cuMemAlloc_v2(uint64_t *p, size_t n) {
	if (n > current->free || sick(current, "alloc")) return OUT_OF_MEMORY;
	*p = (uint64_t)(uintptr_t)malloc(n);
	return *p ? OK : OUT_OF_MEMORY;
}
int cuMemFree_v2(uint64_t p) { free((void *)(uintptr_t)p); return OK; }
int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t n) {
	if (sick(current, "send")) return LAUNCH_FAILED;
	memcpy((void *)(uintptr_t)to, from, n);
	return OK;
}
int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t n) {
	if (sick(current, "fetch")) return ECC;
	memcpy(to, (void *)(uintptr_t)from, n);
	if (sick(current, "bytes")) ((unsigned char *)to)[n / 2] ^= 1; // a bit
	return OK;
}

// What else gorgonia.org/cu refers to, and gpuprobe doesn't call.
#define STUB(name) int name(void) { return NOT_SUPPORTED; }
STUB(cuArray3DCreate_v2) STUB(cuArray3DGetDescriptor_v2) STUB(cuArrayCreate_v2) STUB(cuArrayDestroy)
STUB(cuArrayGetDescriptor_v2) STUB(cuCtxDisablePeerAccess) STUB(cuCtxEnablePeerAccess) STUB(cuCtxGetApiVersion)
STUB(cuCtxGetCacheConfig) STUB(cuCtxGetCurrent) STUB(cuCtxGetDevice) STUB(cuCtxGetFlags) STUB(cuCtxGetLimit)
STUB(cuCtxGetSharedMemConfig) STUB(cuCtxGetStreamPriorityRange) STUB(cuCtxPopCurrent_v2) STUB(cuCtxPushCurrent_v2)
STUB(cuCtxResetPersistingL2Cache) STUB(cuCtxSetCacheConfig) STUB(cuCtxSetCurrent) STUB(cuCtxSetLimit)
STUB(cuCtxSetSharedMemConfig) STUB(cuCtxSynchronize) STUB(cuDeviceCanAccessPeer) STUB(cuDeviceGetP2PAttribute)
STUB(cuDevicePrimaryCtxGetState) STUB(cuDevicePrimaryCtxRelease_v2) STUB(cuDevicePrimaryCtxReset_v2)
STUB(cuDevicePrimaryCtxRetain) STUB(cuDevicePrimaryCtxSetFlags_v2) STUB(cuEventCreate) STUB(cuEventDestroy_v2)
STUB(cuEventElapsedTime) STUB(cuEventQuery) STUB(cuEventRecord) STUB(cuEventSynchronize) STUB(cuFuncGetAttribute)
STUB(cuFuncSetCacheConfig) STUB(cuFuncSetSharedMemConfig) STUB(cuGraphAddChildGraphNode) STUB(cuGraphAddDependencies)
STUB(cuGraphAddEmptyNode) STUB(cuGraphAddHostNode) STUB(cuGraphAddKernelNode_v2) STUB(cuGraphAddMemcpyNode)
STUB(cuGraphAddMemsetNode) STUB(cuGraphClone) STUB(cuGraphCreate) STUB(cuGraphDestroy) STUB(cuGraphDestroyNode)
STUB(cuGraphExecDestroy) STUB(cuGraphGetEdges) STUB(cuLaunchKernel) STUB(cuLinkAddData_v2) STUB(cuLinkAddFile_v2)
STUB(cuLinkComplete) STUB(cuLinkCreate_v2) STUB(cuLinkDestroy) STUB(cuMemAdvise) STUB(cuMemAllocManaged)
STUB(cuMemAllocPitch_v2) STUB(cuMemFreeHost) STUB(cuMemGetAddressRange_v2) STUB(cuMemPrefetchAsync) STUB(cuMemcpy)
STUB(cuMemcpy2DAsync_v2) STUB(cuMemcpy2DUnaligned_v2) STUB(cuMemcpy2D_v2) STUB(cuMemcpy3DAsync_v2)
STUB(cuMemcpy3DPeer) STUB(cuMemcpy3DPeerAsync) STUB(cuMemcpy3D_v2) STUB(cuMemcpyAsync) STUB(cuMemcpyAtoA_v2)
STUB(cuMemcpyAtoD_v2) STUB(cuMemcpyAtoHAsync_v2) STUB(cuMemcpyAtoH_v2) STUB(cuMemcpyDtoA_v2)
STUB(cuMemcpyDtoDAsync_v2) STUB(cuMemcpyDtoD_v2) STUB(cuMemcpyDtoHAsync_v2) STUB(cuMemcpyHtoAAsync_v2)
STUB(cuMemcpyHtoA_v2) STUB(cuMemcpyHtoDAsync_v2) STUB(cuMemcpyPeer) STUB(cuMemcpyPeerAsync) STUB(cuMemsetD16Async)
STUB(cuMemsetD16_v2) STUB(cuMemsetD2D16Async) STUB(cuMemsetD2D16_v2) STUB(cuMemsetD2D32Async) STUB(cuMemsetD2D32_v2)
STUB(cuMemsetD2D8Async) STUB(cuMemsetD2D8_v2) STUB(cuMemsetD32Async) STUB(cuMemsetD32_v2) STUB(cuMemsetD8Async)
STUB(cuMemsetD8_v2) STUB(cuModuleGetFunction) STUB(cuModuleGetGlobal_v2) STUB(cuModuleGetSurfRef)
STUB(cuModuleGetTexRef) STUB(cuModuleLoad) STUB(cuModuleLoadData) STUB(cuModuleLoadDataEx)
STUB(cuModuleLoadFatBinary) STUB(cuModuleUnload) STUB(cuOccupancyMaxActiveBlocksPerMultiprocessor)
STUB(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags) STUB(cuPointerGetAttribute) STUB(cuPointerSetAttribute)
STUB(cuStreamAttachMemAsync) STUB(cuStreamCreate) STUB(cuStreamCreateWithPriority) STUB(cuStreamDestroy_v2)
STUB(cuStreamGetFlags) STUB(cuStreamGetPriority) STUB(cuStreamQuery) STUB(cuStreamSynchronize)
STUB(cuStreamWaitEvent) STUB(cuStreamWaitValue32_v2) STUB(cuStreamWriteValue32_v2) STUB(cuSurfRefGetArray)
STUB(cuSurfRefSetArray) STUB(cuTexRefGetAddressMode) STUB(cuTexRefGetAddress_v2) STUB(cuTexRefGetArray)
STUB(cuTexRefGetBorderColor) STUB(cuTexRefGetFilterMode) STUB(cuTexRefGetFlags) STUB(cuTexRefGetFormat)
STUB(cuTexRefGetMaxAnisotropy) STUB(cuTexRefSetAddress2D_v3) STUB(cuTexRefSetAddressMode) STUB(cuTexRefSetAddress_v2)
STUB(cuTexRefSetArray) STUB(cuTexRefSetBorderColor) STUB(cuTexRefSetFilterMode) STUB(cuTexRefSetFlags)
STUB(cuTexRefSetFormat) STUB(cuTexRefSetMaxAnisotropy) STUB(cuTexRefSetMipmapFilterMode)
STUB(cuTexRefSetMipmapLevelBias) STUB(cuTexRefSetMipmapLevelClamp)
