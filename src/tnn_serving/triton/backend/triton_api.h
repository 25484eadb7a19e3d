/* The part of Triton's C API (tritonserver.h, tritonbackend.h, backend API 1.x) that the backend uses.
 *
 * Declared by hand, so that building needs no headers; the symbols are found in the tritonserver process, which
 * brings libtritonserver into the global scope. Nothing is linked. */
#ifndef TNN_TRITON_API_H
#define TNN_TRITON_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "contract.h"

typedef struct TRITONSERVER_Error TRITONSERVER_Error;
typedef struct TRITONSERVER_Message TRITONSERVER_Message;
typedef struct TRITONSERVER_InferenceTrace TRITONSERVER_InferenceTrace;
typedef struct TRITONSERVER_Parameter TRITONSERVER_Parameter;
typedef struct TRITONSERVER_MetricFamily TRITONSERVER_MetricFamily;
typedef struct TRITONSERVER_MetricArgs TRITONSERVER_MetricArgs;
typedef struct TRITONSERVER_Metric TRITONSERVER_Metric;
typedef struct TRITONBACKEND_Backend TRITONBACKEND_Backend;
typedef struct TRITONBACKEND_BackendAttribute TRITONBACKEND_BackendAttribute;
typedef struct TRITONBACKEND_Model TRITONBACKEND_Model;
typedef struct TRITONBACKEND_ModelInstance TRITONBACKEND_ModelInstance;
typedef struct TRITONBACKEND_Request TRITONBACKEND_Request;
typedef struct TRITONBACKEND_Response TRITONBACKEND_Response;
typedef struct TRITONBACKEND_Input TRITONBACKEND_Input;
typedef struct TRITONBACKEND_Output TRITONBACKEND_Output;

/* Error codes, log levels and kinds of metrics are in contract.h: Python uses them too. */
enum { MEMORY_CPU, MEMORY_CPU_PINNED, MEMORY_GPU };
enum { KIND_CPU = 1, PARAMETER_STRING = 0, ARTIFACT_FILESYSTEM = 0, RELEASE_ALL = 1, RESPONSE_FINAL = 1,
       CONFIG_VERSION = 1 };

typedef TRITONSERVER_Error *TritonResult; /* NULL: done; otherwise an error that the receiver must delete */

TRITONSERVER_Error *TRITONSERVER_ErrorNew(int code, const char *message);
void TRITONSERVER_ErrorDelete(TRITONSERVER_Error *);
int TRITONSERVER_ErrorCode(TRITONSERVER_Error *);
const char *TRITONSERVER_ErrorMessage(TRITONSERVER_Error *);
TritonResult TRITONSERVER_LogMessage(int level, const char *file, int line, const char *message);
bool TRITONSERVER_LogIsEnabled(int level);
const char *TRITONSERVER_DataTypeString(int datatype);
int TRITONSERVER_StringToDataType(const char *datatype);
uint32_t TRITONSERVER_DataTypeByteSize(int datatype); /* 0 for BYTES */
TritonResult TRITONSERVER_MessageNewFromSerializedJson(TRITONSERVER_Message **, const char *json, size_t length);
TritonResult TRITONSERVER_MessageSerializeToJson(TRITONSERVER_Message *, const char **json, size_t *length);
TritonResult TRITONSERVER_MessageDelete(TRITONSERVER_Message *);

TritonResult TRITONBACKEND_ApiVersion(uint32_t *major, uint32_t *minor);
TritonResult TRITONBACKEND_BackendConfig(TRITONBACKEND_Backend *, TRITONSERVER_Message **);
TritonResult TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(
    TRITONBACKEND_BackendAttribute *, int kind, uint64_t count, const uint64_t *devices, uint64_t device_count);

TritonResult TRITONBACKEND_ModelName(TRITONBACKEND_Model *, const char **);
TritonResult TRITONBACKEND_ModelVersion(TRITONBACKEND_Model *, uint64_t *);
TritonResult TRITONBACKEND_ModelRepository(TRITONBACKEND_Model *, int *artifact_type, const char **location);
TritonResult TRITONBACKEND_ModelConfig(TRITONBACKEND_Model *, uint32_t config_version, TRITONSERVER_Message **);
TritonResult TRITONBACKEND_ModelSetConfig(TRITONBACKEND_Model *, uint32_t config_version, TRITONSERVER_Message *);
TritonResult TRITONBACKEND_ModelAutoCompleteConfig(TRITONBACKEND_Model *, bool *);
TritonResult TRITONBACKEND_ModelState(TRITONBACKEND_Model *, void **);
TritonResult TRITONBACKEND_ModelSetState(TRITONBACKEND_Model *, void *);

TritonResult TRITONBACKEND_ModelInstanceModel(TRITONBACKEND_ModelInstance *, TRITONBACKEND_Model **);
TritonResult TRITONBACKEND_ModelInstanceState(TRITONBACKEND_ModelInstance *, void **);
TritonResult TRITONBACKEND_ModelInstanceSetState(TRITONBACKEND_ModelInstance *, void *);
TritonResult TRITONBACKEND_ModelInstanceReportStatistics(
    TRITONBACKEND_ModelInstance *, TRITONBACKEND_Request *, bool success, uint64_t exec_start_ns,
    uint64_t compute_start_ns, uint64_t compute_end_ns, uint64_t exec_end_ns);
TritonResult TRITONBACKEND_ModelInstanceReportBatchStatistics(
    TRITONBACKEND_ModelInstance *, uint64_t batch_size, uint64_t exec_start_ns, uint64_t compute_start_ns,
    uint64_t compute_end_ns, uint64_t exec_end_ns);

TritonResult TRITONBACKEND_RequestIsCancelled(TRITONBACKEND_Request *, bool *);
TritonResult TRITONBACKEND_RequestInputCount(TRITONBACKEND_Request *, uint32_t *);
TritonResult TRITONBACKEND_RequestInputByIndex(TRITONBACKEND_Request *, uint32_t, TRITONBACKEND_Input **);
TritonResult TRITONBACKEND_RequestOutputCount(TRITONBACKEND_Request *, uint32_t *);
TritonResult TRITONBACKEND_RequestOutputName(TRITONBACKEND_Request *, uint32_t, const char **);
TritonResult TRITONBACKEND_RequestRelease(TRITONBACKEND_Request *, uint32_t flags);
TritonResult TRITONBACKEND_InputProperties(
    TRITONBACKEND_Input *, const char **name, int *datatype, const int64_t **shape, uint32_t *rank,
    uint64_t *byte_size, uint32_t *buffer_count);
TritonResult TRITONBACKEND_InputBuffer(
    TRITONBACKEND_Input *, uint32_t, const void **, uint64_t *byte_size, int *memory_type, int64_t *memory_id);

TritonResult TRITONBACKEND_ResponseNew(TRITONBACKEND_Response **, TRITONBACKEND_Request *);
TritonResult TRITONBACKEND_ResponseOutput(
    TRITONBACKEND_Response *, TRITONBACKEND_Output **, const char *name, int datatype, const int64_t *shape,
    uint32_t rank);
TritonResult TRITONBACKEND_OutputBuffer(
    TRITONBACKEND_Output *, void **, uint64_t byte_size, int *memory_type, int64_t *memory_id);
TritonResult TRITONBACKEND_ResponseSend(TRITONBACKEND_Response *, uint32_t flags, TRITONSERVER_Error *);

/* What a backend defines. */
TritonResult TRITONBACKEND_Initialize(TRITONBACKEND_Backend *);
TritonResult TRITONBACKEND_Finalize(TRITONBACKEND_Backend *);
TritonResult TRITONBACKEND_GetBackendAttribute(TRITONBACKEND_Backend *, TRITONBACKEND_BackendAttribute *);
TritonResult TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model *);
TritonResult TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model *);
TritonResult TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance *);
TritonResult TRITONBACKEND_ModelInstanceFinalize(TRITONBACKEND_ModelInstance *);
TritonResult TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance *, TRITONBACKEND_Request **requests, uint32_t count);

/* Not in every 1.x: NULL where the server lacks it. */
#define OPTIONAL __attribute__((weak))
OPTIONAL TritonResult TRITONBACKEND_RequestTrace(TRITONBACKEND_Request *, TRITONSERVER_InferenceTrace **);
OPTIONAL TritonResult TRITONSERVER_InferenceTraceReportActivity(
    TRITONSERVER_InferenceTrace *, uint64_t monotonic_ns, const char *activity);
OPTIONAL TRITONSERVER_Parameter *TRITONSERVER_ParameterNew(const char *name, int type, const void *value);
OPTIONAL void TRITONSERVER_ParameterDelete(TRITONSERVER_Parameter *);
OPTIONAL TritonResult TRITONSERVER_MetricFamilyNew(
    TRITONSERVER_MetricFamily **, int kind, const char *name, const char *description);
OPTIONAL TritonResult TRITONSERVER_MetricNew(
    TRITONSERVER_Metric **, TRITONSERVER_MetricFamily *, const TRITONSERVER_Parameter **labels, uint64_t count);
OPTIONAL TritonResult TRITONSERVER_MetricNewWithArgs(
    TRITONSERVER_Metric **, TRITONSERVER_MetricFamily *, const TRITONSERVER_Parameter **labels, uint64_t count,
    const TRITONSERVER_MetricArgs *);
OPTIONAL TritonResult TRITONSERVER_MetricArgsNew(TRITONSERVER_MetricArgs **);
OPTIONAL TritonResult TRITONSERVER_MetricArgsSetHistogram(
    TRITONSERVER_MetricArgs *, const double *bounds, uint64_t count);
OPTIONAL TritonResult TRITONSERVER_MetricArgsDelete(TRITONSERVER_MetricArgs *);
OPTIONAL TritonResult TRITONSERVER_MetricDelete(TRITONSERVER_Metric *);
OPTIONAL TritonResult TRITONSERVER_MetricIncrement(TRITONSERVER_Metric *, double);
OPTIONAL TritonResult TRITONSERVER_MetricSet(TRITONSERVER_Metric *, double);
OPTIONAL TritonResult TRITONSERVER_MetricObserve(TRITONSERVER_Metric *, double);
#undef OPTIONAL

#endif
