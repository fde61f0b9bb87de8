// A stand-in for cuDNN: the part of its graphs that convoy uses, convolutions with a bias and ReLU, for f32 and bfloat16 in any order of
// dimensions, on the processor. As the library it takes descriptors apart from what they are made of, refuses what is not finished or does not agree, and proposes
// engines of which some round, some change their results from run to run, and some do not run after all.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

extern "C" int stand_in_call(void* stream, const char* name, int (*work)(void*), void (*drop)(void*), void* data);
extern "C" int stand_in_inside(uintptr_t at, size_t bytes);

enum { OK = 0, BAD_PARAM = 2000, NOT_FINALIZED = 2003, NOT_SUPPORTED = 3000 };
enum { POINTWISE, CONVOLUTION, ENGINE, CONFIG, HEURISTIC, PLAN, FORWARD = 10, BACKWARD_FILTER, BACKWARD_DATA, POINTWISE_OPERATION, GRAPH = 15, PACK, TENSOR };
enum { TENSOR_CORE = 0, NONDETERMINISTIC = 4, WINOGRAD = 5, STRICT_NAN = 9 };

struct Engine {
    std::vector<int> notes;
    int64_t workspace;
    bool runs;
};
static const std::vector<Engine> ENGINES = {{{NONDETERMINISTIC}, 0, true}, {{TENSOR_CORE}, 512, true}, {{}, 4096, false}, {{}, 1024, true},
    {{WINOGRAD}, 0, true}, {{TENSOR_CORE, STRICT_NAN}, 0, true}, {{STRICT_NAN}, 0, true}, {{}, 256, true}};
static const std::map<int, std::vector<int>> PROPOSED = {{3, {0, 1, 2, 3}}, {1, {4, 5}}, {2, {6}}};

struct Descriptor {
    int type;
    bool finished = false;
    int engine = -1;
    std::map<int, std::pair<int, std::vector<char>>> values;
    std::map<int, std::vector<std::shared_ptr<Descriptor>>> parts;

    template <class T> std::vector<T> all(int attribute) const {
        auto found = values.find(attribute);
        if (found == values.end()) return {};
        auto& bytes = found->second.second;
        std::vector<T> result(bytes.size() / sizeof(T));
        memcpy(result.data(), bytes.data(), bytes.size());
        return result;
    }
    const Descriptor& part(int attribute, size_t n = 0) const { return *parts.at(attribute).at(n); }
    bool has(std::initializer_list<int> attributes) const {
        return std::all_of(attributes.begin(), attributes.end(), [&](int a) { return values.count(a) || parts.count(a); });
    }
    int64_t id() const { return all<int64_t>(906)[0]; }
    bool is_virtual() const {
        auto flag = all<char>(907);
        return !flag.empty() && flag[0];
    }
    size_t bytes() const {
        auto extents = all<int64_t>(902), strides = all<int64_t>(903);
        size_t last = 0;
        for (size_t n = 0; n < extents.size(); n++) last += (extents[n] - 1) * strides[n];
        return (last + 1) * size();
    }
    bool is_bf16() const { return all<int>(901)[0] == 9; }
    size_t size() const { return is_bf16() ? 2 : 4; }
};
struct Handle {
    void* stream = nullptr;
};

static std::string last;
static int refuse(int code, const std::string& why) {
    last = why;
    return code;
}

#define API extern "C" __attribute__((visibility("default"))) int

extern "C" __attribute__((visibility("default"))) size_t cudnnGetVersion() { return 92801; }
extern "C" __attribute__((visibility("default"))) size_t cudnnGetCudartVersion() { return 13000; }
extern "C" __attribute__((visibility("default"))) const char* cudnnGetErrorString(int) { return "an error of the stand-in"; }
extern "C" __attribute__((visibility("default"))) void cudnnGetLastErrorString(char* to, size_t room) { snprintf(to, room, "%s", last.c_str()); }
API cudnnCreate(Handle** handle) { return *handle = new Handle, OK; }
API cudnnDestroy(Handle* handle) { return delete handle, OK; }
API cudnnSetStream(Handle* handle, void* stream) { return handle->stream = stream, OK; }
API cudnnBackendCreateDescriptor(int type, Descriptor** made) { return *made = new Descriptor{type}, OK; }
API cudnnBackendDestroyDescriptor(Descriptor* it) { return delete it, OK; }

API cudnnBackendSetAttribute(Descriptor* it, int attribute, int kind, int64_t count, const char* values) {
    static const std::map<int, int> sizes = {{0, 8}, {1, 4}, {2, 1}, {3, 8}, {4, 4}, {6, 8}, {7, 4}, {8, 4}, {14, 4}};
    if (it->finished) return refuse(BAD_PARAM, "it is finished");
    if (kind == 15) {
        for (int64_t n = 0; n < count; n++) {
            Descriptor* part;
            memcpy(&part, values + n * 8, 8);
            if (!part->finished) return refuse(NOT_FINALIZED, "a part that is not finished");
            it->parts[attribute].push_back(std::make_shared<Descriptor>(*part));
        }
        return OK;
    }
    auto size = sizes.find(kind);
    if (size == sizes.end()) return refuse(BAD_PARAM, "a kind of value");
    it->values[attribute] = {kind, std::vector<char>(values, values + count * size->second)};
    return OK;
}

// Attributes of a convolution's operation: its description, w, x and y.
static std::vector<int> attributes(int type) {
    return type == FORWARD ? std::vector{702, 703, 704, 705} : type == BACKWARD_DATA ? std::vector{708, 709, 710, 711} : std::vector{714, 715, 716, 717};
}

static int check_convolution(const Descriptor& it) {
    auto at = attributes(it.type);
    if (!it.has({at[0], at[1], at[2], at[3], at[0] - 1, at[0] - 2})) return refuse(BAD_PARAM, "an operation that lacks a part");
    if (it.all<float>(at[0] - 2) != std::vector{1.0f} || it.all<float>(at[0] - 1) != std::vector{0.0f}) return refuse(NOT_SUPPORTED, "factors");
    auto& how = it.part(at[0]);
    auto w = it.part(at[1]).all<int64_t>(902), x = it.part(at[2]).all<int64_t>(902), y = it.part(at[3]).all<int64_t>(902);
    if (x[1] % w[1] || w[0] % (x[1] / w[1]) || y[0] != x[0] || y[1] != w[0]) return refuse(BAD_PARAM, "channels that do not agree");
    for (int axis = 0; axis < 2; axis++) {
        int64_t reach = how.all<int64_t>(102)[axis] * (w[2 + axis] - 1) + 1;
        int64_t room = x[2 + axis] + how.all<int64_t>(104)[axis] + how.all<int64_t>(105)[axis] - reach;
        if (room < 0 || y[2 + axis] != room / how.all<int64_t>(103)[axis] + 1) return refuse(BAD_PARAM, "extents that do not agree");
    }
    return OK;
}

API cudnnBackendFinalize(Descriptor* it) {
    auto done = [&](bool whole) { return whole ? (it->finished = true, OK) : refuse(BAD_PARAM, "a descriptor that lacks something"); };
    switch (it->type) {
        case POINTWISE: return done(it->has({0, 1}));
        case CONVOLUTION: return done(it->has({100, 101, 102, 103, 104, 105, 106}) && it->all<int>(101)[0] == 1);
        case TENSOR: return done(it->has({900, 901, 902, 903, 906}) && (it->all<int>(901)[0] == 0 || it->all<int>(901)[0] == 9) && it->all<int64_t>(902).size() == 4);
        case FORWARD:
        case BACKWARD_DATA:
        case BACKWARD_FILTER:
            if (int code = check_convolution(*it)) return code;
            return done(true);
        case POINTWISE_OPERATION: return done(it->has({750, 751, 753}) && (it->part(750).all<int>(0)[0] == 100 || it->has({752})));
        case GRAPH: return done(it->has({800, 801}));
        case ENGINE: return it->engine = it->all<int64_t>(1301)[0], done(it->has({1300}) && it->engine < int(ENGINES.size()));
        case CONFIG: return it->engine = it->part(300).engine, it->parts[201] = {it->part(300).parts.at(1300)[0]}, done(it->has({300}));
        case HEURISTIC:
            if (!it->has({200, 201}) || !PROPOSED.count(it->all<int>(200)[0])) return refuse(NOT_SUPPORTED, "a mode");
            return done(true);
        case PLAN:
            if (!it->has({400, 401})) return refuse(BAD_PARAM, "a plan that lacks something");
            if (!ENGINES[it->part(401).engine].runs) return refuse(NOT_SUPPORTED, "an engine that does not run");
            return done(true);
        case PACK: return done(it->has({1000, 1001, 1003}) && it->all<int64_t>(1000).size() == it->all<uintptr_t>(1001).size());
        default: return refuse(BAD_PARAM, "a type of descriptor");
    }
}

API cudnnBackendGetAttribute(Descriptor* it, int attribute, int kind, int64_t room, int64_t* count, void* values) {
    if (!it->finished) return refuse(NOT_FINALIZED, "it is not finished");
    if (it->type == HEURISTIC && attribute == 202 && kind == 15) {
        auto& proposed = PROPOSED.at(it->all<int>(200)[0]);
        *count = proposed.size();
        for (int64_t n = 0; n < std::min(room, *count); n++) {
            auto* config = static_cast<Descriptor**>(values)[n];
            config->engine = proposed[n], config->finished = true;
            config->parts[201] = {it->parts.at(201)[0]};
        }
        return OK;
    }
    if (it->type == CONFIG && attribute == 300 && kind == 15 && room == 1) {
        auto* engine = *static_cast<Descriptor**>(values);
        if (engine->type != ENGINE) return refuse(BAD_PARAM, "no engine");
        return *count = 1, engine->engine = it->engine, engine->finished = true, OK;
    }
    if (it->type == ENGINE && attribute == 1303 && kind == 11) {
        auto& notes = ENGINES[it->engine].notes;
        *count = notes.size();
        std::copy_n(notes.begin(), std::min<int64_t>(room, *count), static_cast<int*>(values));
        return OK;
    }
    if (it->type == ENGINE && attribute == 1301 && kind == 3) return *count = 1, *static_cast<int64_t*>(values) = it->engine, OK;
    if (it->type == GRAPH && attribute == 802 && kind == 3) return *count = 1, *static_cast<int64_t*>(values) = ENGINES.size(), OK;
    if (it->type == PLAN && attribute == 402 && kind == 3 && room == 1) {
        return *count = 1, *static_cast<int64_t*>(values) = ENGINES[it->part(401).engine].workspace, OK;
    }
    return refuse(BAD_PARAM, "an attribute to read");
}

struct Run {
    Descriptor plan;
    std::map<int64_t, void*> at;
    std::map<int64_t, std::vector<float>> virtuals;
    float* workspace;
};

// A tensor's elements, wherever they are; those of a virtual one are of this run.
struct View {
    void* at;
    bool bf16;

    float get(int64_t n) const {
        if (!bf16) return static_cast<float*>(at)[n];
        uint32_t word = uint32_t(static_cast<uint16_t*>(at)[n]) << 16;
        float value;
        return memcpy(&value, &word, 4), value;
    }
    void set(int64_t n, float value) {
        if (!bf16) return void(static_cast<float*>(at)[n] = value);
        uint32_t word;
        memcpy(&word, &value, 4);
        static_cast<uint16_t*>(at)[n] = std::isfinite(value) ? (word + 0x7fff + (word >> 16 & 1)) >> 16 : word >> 16 | (std::isnan(value) ? 0x40 : 0);
    }
};
static View memory(Run& run, const Descriptor& tensor) {
    if (!tensor.is_virtual()) return {run.at.at(tensor.id()), tensor.is_bf16()};
    auto& own = run.virtuals[tensor.id()];
    own.resize(tensor.bytes() / 4);
    return {own.data(), false};
}

static float rounded(float x, bool round) {
    uint32_t word;
    memcpy(&word, &x, 4);
    if (round && std::isfinite(x)) word = (word + 0x1000) & ~0x1fffu;
    memcpy(&x, &word, 4);
    return x;
}

static void convolve(Run& run, const Descriptor& it, bool round) {
    auto at = attributes(it.type);
    auto &how = it.part(at[0]), &w = it.part(at[1]), &x = it.part(at[2]), &y = it.part(at[3]);
    auto W = w.all<int64_t>(902), X = x.all<int64_t>(902), Y = y.all<int64_t>(902);
    auto sw = w.all<int64_t>(903), sx = x.all<int64_t>(903), sy = y.all<int64_t>(903);
    auto dilation = how.all<int64_t>(102), stride = how.all<int64_t>(103), padding = how.all<int64_t>(105);
    auto &result = it.type == FORWARD ? y : it.type == BACKWARD_DATA ? x : w;
    View mw = memory(run, w), mx = memory(run, x), my = memory(run, y), made = memory(run, result);
    std::vector<double> sums(result.bytes() / result.size());
    int64_t each = Y[1] / (X[1] / W[1]);
    for (int64_t n = 0; n < Y[0]; n++)
        for (int64_t o = 0; o < Y[1]; o++)
            for (int64_t p = 0; p < Y[2]; p++)
                for (int64_t q = 0; q < Y[3]; q++)
                    for (int64_t c = 0; c < W[1]; c++)
                        for (int64_t r = 0; r < W[2]; r++)
                            for (int64_t s = 0; s < W[3]; s++) {
                                int64_t h = p * stride[0] + r * dilation[0] - padding[0], v = q * stride[1] + s * dilation[1] - padding[1];
                                if (h < 0 || h >= X[2] || v < 0 || v >= X[3]) continue;
                                int64_t iw = o * sw[0] + c * sw[1] + r * sw[2] + s * sw[3], iy = n * sy[0] + o * sy[1] + p * sy[2] + q * sy[3];
                                int64_t ix = n * sx[0] + (o / each * W[1] + c) * sx[1] + h * sx[2] + v * sx[3];
                                auto product = [&](float a, float b) { return double(rounded(a, round)) * rounded(b, round); };
                                if (it.type == FORWARD) sums[iy] += product(mw.get(iw), mx.get(ix));
                                if (it.type == BACKWARD_DATA) sums[ix] += product(mw.get(iw), my.get(iy));
                                if (it.type == BACKWARD_FILTER) sums[iw] += product(mx.get(ix), my.get(iy));
                            }
    for (size_t n = 0; n < sums.size(); n++) made.set(n, sums[n]);
}

static void pointwise(Run& run, const Descriptor& it) {
    auto &x = it.part(751), &y = it.part(753);
    auto Y = y.all<int64_t>(902), sx = x.all<int64_t>(903), sy = y.all<int64_t>(903);
    bool add = it.part(750).all<int>(0)[0] == 0;
    View mx = memory(run, x), my = memory(run, y), mb = memory(run, add ? it.part(752) : x);
    int64_t channel = add ? it.part(752).all<int64_t>(903)[1] : 0;
    for (int64_t n = 0; n < Y[0]; n++)
        for (int64_t c = 0; c < Y[1]; c++)
            for (int64_t h = 0; h < Y[2]; h++)
                for (int64_t v = 0; v < Y[3]; v++) {
                    float value = mx.get(n * sx[0] + c * sx[1] + h * sx[2] + v * sx[3]);
                    my.set(n * sy[0] + c * sy[1] + h * sy[2] + v * sy[3], add ? value + mb.get(c * channel) : value > 0 ? value : 0);
                }
}

static int run(void* data) {
    auto& run = *static_cast<Run*>(data);
    auto& config = run.plan.part(401);
    auto& engine = ENGINES[config.engine];
    std::fill_n(run.workspace, engine.workspace / 4, NAN);
    bool round = std::count(engine.notes.begin(), engine.notes.end(), TENSOR_CORE);
    for (auto& operation : config.part(201).parts.at(801)) {
        operation->type == POINTWISE_OPERATION ? pointwise(run, *operation) : convolve(run, *operation, round);
    }
    return OK;
}

static int refusals = 0;  // calls that it promised to run, and does not
API stand_in_refusals(int count) { return refusals = count, OK; }

API cudnnBackendExecute(Handle* handle, Descriptor* plan, Descriptor* pack) {
    if (refusals > 0) return refusals--, refuse(NOT_SUPPORTED, "it does not run after all");
    if (plan->type != PLAN || pack->type != PACK || !plan->finished || !pack->finished) return refuse(NOT_FINALIZED, "a plan and a pack");
    auto made = std::make_unique<Run>(Run{*plan, {}, {}, nullptr});
    auto ids = pack->all<int64_t>(1000);
    auto addresses = pack->all<uintptr_t>(1001);
    for (size_t n = 0; n < ids.size(); n++) made->at[ids[n]] = reinterpret_cast<void*>(addresses[n]);
    for (auto& operation : plan->part(401).part(201).parts.at(801)) {
        for (auto& [attribute, parts] : operation->parts) {
            auto& tensor = *parts[0];
            if (tensor.type != TENSOR || tensor.is_virtual()) continue;
            auto found = made->at.find(tensor.id());
            if (found == made->at.end()) return refuse(BAD_PARAM, "a tensor without an address");
            auto address = reinterpret_cast<uintptr_t>(found->second);
            if (address % tensor.all<int64_t>(900)[0] || !stand_in_inside(address, tensor.bytes())) return refuse(BAD_PARAM, "a tensor that is not the device's");
        }
    }
    uintptr_t workspace = pack->all<uintptr_t>(1003)[0];
    int64_t bytes = ENGINES[plan->part(401).engine].workspace;
    if (bytes && !stand_in_inside(workspace, bytes)) return refuse(BAD_PARAM, "a workspace that is not the device's");
    made->workspace = reinterpret_cast<float*>(workspace);
    return stand_in_call(handle->stream, "cudnn", run, [](void* data) { delete static_cast<Run*>(data); }, made.release());
}
