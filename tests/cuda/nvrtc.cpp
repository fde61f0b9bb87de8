// A stand-in for NVRTC: a C++ compiler makes of each kernel a library for the processor, which driver.cpp loads.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <regex>
#include <sstream>
#include <string>

struct Program {
    std::string text, log, code;
};

static std::string read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

#define API extern "C" __attribute__((visibility("default"))) int

API nvrtcVersion(int* major, int* minor) { return *major = 13, *minor = 0, 0; }
API nvrtcGetNumSupportedArchs(int* n) { return *n = 3, 0; }
API nvrtcGetSupportedArchs(int* archs) { return archs[0] = 75, archs[1] = 80, archs[2] = 90, 0; }

API nvrtcCreateProgram(Program** program, const char* text, const char*, int headers, const char* const*, const char* const*) {
    if (headers) return 3;
    *program = new Program{text, "", ""};
    return 0;
}

API nvrtcCompileProgram(Program* program, int count, const char* const* options) {
    std::string given;
    for (int i = 0; i < count; i++) given += std::string(options[i]) + " ";
    if (given != "--std=c++17 --gpu-architecture=sm_90 ") return program->log = "options: " + given, 5;
    char folder[] = "/tmp/convoy-kernel-XXXXXX";
    if (!mkdtemp(folder)) return 7;
    std::string at = folder;
    std::ofstream file(at + "/kernel.cpp");
    // Between the prelude and the end: the one kernel.
    static const std::regex kernel("\nKERNEL\\(\\d+\\) (\\w+)\\(");
    std::smatch found;
    const char* barriers = program->text.find("__syncthreads()") == std::string::npos ? "false" : "true";
    file << program->text;
    if (std::regex_search(program->text, found, kernel)) file << "\nEXPORT(" << found[1] << ", " << barriers << ")\n";
    file.close();
    std::string command = "c++ -std=c++17 -O1 -w -shared -fPIC -include " HOST_HEADER " -o " + at + "/kernel.so " + at +
        "/kernel.cpp 2> " + at + "/log";
    int status = system(command.c_str());
    program->log = read(at + "/log");
    std::string library = read(at + "/kernel.so");
    unsigned long long size = library.size();
    program->code = "HOSTCODE" + std::string(reinterpret_cast<char*>(&size), 8) + library;
    for (const char* name : {"/kernel.cpp", "/kernel.so", "/log"}) unlink((at + name).c_str());
    rmdir(folder);
    return status == 0 && found.size() ? 0 : 6;
}

API nvrtcGetProgramLogSize(Program* program, size_t* size) { return *size = program->log.size() + 1, 0; }
API nvrtcGetProgramLog(Program* program, char* log) { return strcpy(log, program->log.c_str()), 0; }
API nvrtcGetCUBINSize(Program* program, size_t* size) { return *size = program->code.size(), 0; }
API nvrtcGetCUBIN(Program* program, char* code) { return memcpy(code, program->code.data(), program->code.size()), 0; }
API nvrtcGetPTXSize(Program*, size_t*) { return 3; }
API nvrtcGetPTX(Program*, char*) { return 3; }
API nvrtcDestroyProgram(Program** program) { return delete *program, *program = nullptr, 0; }
