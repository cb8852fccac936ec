// Times the Core ML models of this bundle, every prediction between two of the reference block.
// macOS: swiftc -O -parse-as-library bench_coreml.swift -o bench_coreml && ./bench_coreml BUNDLE results.json [all|cpuOnly|cpuAndGPU|cpuAndNeuralEngine]
// iOS: part of an app; call Bench(folder:units:).run(results:).

import CoreML
import Foundation

struct BenchError: Error, CustomStringConvertible {
    let description: String
}

final class LoadedModel {
    private let model: MLModel
    private let features: MLDictionaryFeatureProvider

    init(folder: URL, item: [String: Any], units: MLComputeUnits) throws {
        guard let file = item["file"] as? String else { throw BenchError(description: "no model file") }
        let compiled = try MLModel.compileModel(at: folder.appendingPathComponent(file))
        defer { try? FileManager.default.removeItem(at: compiled) }
        let configuration = MLModelConfiguration()
        configuration.computeUnits = units
        model = try MLModel(contentsOf: compiled, configuration: configuration)
        var values: [String: MLFeatureValue] = [:]
        for input in item["inputs"] as? [[String: Any]] ?? [] {
            guard let name = input["name"] as? String, let path = input["file"] as? String,
                let shape = input["shape"] as? [Int], let type = input["dtype"] as? String
            else { throw BenchError(description: "an input without name, file, shape or dtype") }
            let bytes = try Data(contentsOf: folder.appendingPathComponent(path))
            let wanted = model.modelDescription.inputDescriptionsByName[name]?.multiArrayConstraint?.dataType
            let array = try MLMultiArray(shape: shape.map { NSNumber(value: $0) }, dataType: wanted ?? .float32)
            guard bytes.count == array.count * 4 else { throw BenchError(description: "\(path) has another size than its shape") }
            for index in 0..<array.count {
                let bits = bytes.subdata(in: (4 * index)..<(4 * index + 4)).withUnsafeBytes { $0.loadUnaligned(as: UInt32.self) }
                array[index] = type == "int32" ? NSNumber(value: Int32(bitPattern: bits)) : NSNumber(value: Float(bitPattern: bits))
            }
            values[name] = MLFeatureValue(multiArray: array)
        }
        features = try MLDictionaryFeatureProvider(dictionary: values)
    }

    func milliseconds(repeats: Int = 1) throws -> Double {
        let start = DispatchTime.now().uptimeNanoseconds
        for _ in 0..<repeats {
            try autoreleasepool { _ = try model.prediction(from: features) }
        }
        return Double(DispatchTime.now().uptimeNanoseconds - start) / 1e6 / Double(repeats)
    }
}

struct Bench {
    let folder: URL
    let units: MLComputeUnits

    func run(results: URL) throws {
        let text = try Data(contentsOf: folder.appendingPathComponent("manifest.json"))
        guard let manifest = try JSONSerialization.jsonObject(with: text) as? [String: Any],
            let items = manifest["items"] as? [[String: Any]], let bundle = manifest["bundle"] as? String,
            let conditions = manifest["conditions"] as? [String: Any], let warmup = conditions["warmup"] as? Int,
            let runs = conditions["runs"] as? Int, let threads = conditions["threads"] as? Int, let first = items.first
        else { throw BenchError(description: "manifest.json is not one of a bundle") }
        let reference = try LoadedModel(folder: folder, item: first, units: units)
        var measured: [[String: Any]] = []
        var failed: [[String: Any]] = []
        for (number, item) in items.dropFirst().enumerated() {
            guard let key = item["key"] as? String, item["file"] is String else { continue }
            do {
                let model = try LoadedModel(folder: folder, item: item, units: units)
                let sample = try measure(model, beside: reference, warmup: warmup, runs: runs)
                measured.append(["key": key, "ratios": sample.ratios, "reference_ms": sample.reference])
            } catch {
                failed.append(["key": key, "reason": "\(error)"])
            }
            let content: [String: Any] = [
                "schema": 1, "bundle": bundle, "tool": "bench_coreml", "version": version(), "machine": version(),
                "threads": threads, "measured": measured, "failed": failed,
            ]
            try JSONSerialization.data(withJSONObject: content, options: [.prettyPrinted]).write(to: results, options: .atomic)
            print("\(number + 1) of \(items.count - 1): \(key)")
        }
    }

    private func measure(
        _ model: LoadedModel, beside reference: LoadedModel, warmup: Int, runs: Int
    ) throws -> (ratios: [Double], reference: [Double]) {
        var once = 0.0
        for _ in 0..<max(warmup, 1) {
            _ = try reference.milliseconds()
            once = try model.milliseconds()
        }
        // A sample lasts 2 ms at least: shorter ones say more about the clock than about the model.
        let repeats = min(max(Int((2.0 / max(once, 1e-6)).rounded(.up)), 1), 10_000)
        var ratios: [Double] = []
        var times = [try reference.milliseconds()]
        for _ in 0..<max(runs, 1) {
            let took = try model.milliseconds(repeats: repeats)
            times.append(try reference.milliseconds())
            ratios.append(2 * took / (times[times.count - 2] + times[times.count - 1]))
        }
        return (ratios, times)
    }

    private func version() -> String {
        ProcessInfo.processInfo.operatingSystemVersionString
    }
}

#if os(macOS)
@main
enum Main {
    static func main() {
        let arguments = CommandLine.arguments
        let choices: [String: MLComputeUnits] = [
            "all": .all, "cpuOnly": .cpuOnly, "cpuAndGPU": .cpuAndGPU, "cpuAndNeuralEngine": .cpuAndNeuralEngine,
        ]
        let name = arguments.count > 3 ? arguments[3] : "all"
        guard arguments.count > 2, let units = choices[name] else {
            print("usage: bench_coreml BUNDLE results.json [\(choices.keys.sorted().joined(separator: "|"))]")
            exit(2)
        }
        do {
            try Bench(folder: URL(fileURLWithPath: arguments[1]), units: units).run(results: URL(fileURLWithPath: arguments[2]))
        } catch {
            print("error: \(error)")
            exit(1)
        }
    }
}
#endif
